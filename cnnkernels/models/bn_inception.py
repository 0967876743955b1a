"""BN-Inception (Inception v2): Ioffe, Szegedy 2015, arXiv:1502.03167, figure 5; the names of pretrainedmodels.

SE-BN-Inception has a squeeze-and-excitation after every block: Hu et al. 2017, arXiv:1709.01507, appendix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import MaxPool2d, SqueezeExcite

# 1x1 (0: none, and stride 2); 3x3 reduce, 3x3; double 3x3 reduce, double 3x3; pool projection (0: the pooled x itself)
_BLOCKS = {
    "3a": (64, 64, 64, 64, 96, 32),
    "3b": (64, 64, 96, 64, 96, 64),
    "3c": (0, 128, 160, 64, 96, 0),
    "4a": (224, 64, 96, 96, 128, 128),
    "4b": (192, 96, 128, 96, 128, 128),
    "4c": (160, 128, 160, 128, 160, 128),
    "4d": (96, 128, 192, 160, 192, 128),
    "4e": (0, 128, 192, 192, 256, 0),
    "5a": (352, 192, 320, 160, 224, 128),
    "5b": (352, 192, 320, 192, 224, 128),
}
_LAST = "5b"  # pools by the maximum, the blocks before it by the average


class BNInception(Network):
    """Stem, ten blocks of parallel branches, pooling, dropout, one linear layer; all convolutions children of the network.

    se: a ``SqueezeExcite`` after every block (16 times fewer channels in its middle), and convolutions without the biases
    that BatchNorm makes superfluous: SE-BN-Inception.  Arguments and results else as in ``Network``.
    """

    last_layer = "last_linear"
    head = ("dropout", "last_linear")

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.2,
        se: bool = False,
        **kw: Any,
    ) -> None:
        super().__init__()
        self._bias = not se
        self._add("conv1_7x7_s2", in_chans, 64, 7, 2)
        self._add("conv2_3x3_reduce", 64, 64, 1)
        self._add("conv2_3x3", 64, 192, 3)
        channels, stride = 192, 8
        shapes = [(64, 2), (192, 4)]
        for name, (one, reduce, three, double_reduce, double, project) in _BLOCKS.items():
            block, step = f"inception_{name}", 1 if one else 2
            if one:
                self._add(f"{block}_1x1", channels, one, 1)
            self._add(f"{block}_3x3_reduce", channels, reduce, 1)
            self._add(f"{block}_3x3", reduce, three, 3, step)
            self._add(f"{block}_double_3x3_reduce", channels, double_reduce, 1)
            self._add(f"{block}_double_3x3_1", double_reduce, double, 3)
            self._add(f"{block}_double_3x3_2", double, double, 3, step)
            if project:
                self._add(f"{block}_pool_proj", channels, project, 1)
            channels = one + three + double + (project or channels)
            stride *= step
            shapes.append((channels, stride))
            if se:
                self.add_module(f"{block}_se", SqueezeExcite(channels, channels // 16))
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = MaxPool2d(3, 2, ceil_mode=True)
        self.average = nn.AvgPool2d(3, 1, 1, ceil_mode=True)
        self.maxpool_last = MaxPool2d(3, 1, 1, ceil_mode=True)
        self.dropout = nn.Dropout(drop_rate)
        self.last_linear: Any = self.make_last_layer(channels, num_classes)
        self.complete(shapes, features_only=features_only, **kw)

    def _add(self, name: str, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        self.add_module(name, nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=self._bias))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(c_out))

    def initialise(self, name: str, module: nn.Module) -> None:
        """As torch makes the layers; the paper names no other."""

    def _unit(self, x: Tensor, name: str) -> Tensor:
        return self.fused(x, name, f"{name}_bn", "relu")

    def _stem(self, x: Tensor) -> Tensor:
        return self._unit(x, "conv1_7x7_s2")

    def _second(self, x: Tensor) -> Tensor:
        return self._unit(self._unit(self.maxpool(x), "conv2_3x3_reduce"), "conv2_3x3")

    def _block(self, name: str, x: Tensor) -> Tensor:
        block = f"inception_{name}"
        if name == next(iter(_BLOCKS)):
            x = self.maxpool(x)
        branches = [self._unit(x, f"{block}_1x1")] if f"{block}_1x1" in self._modules else []
        branches.append(self._unit(self._unit(x, f"{block}_3x3_reduce"), f"{block}_3x3"))
        double = self._unit(self._unit(x, f"{block}_double_3x3_reduce"), f"{block}_double_3x3_1")
        branches.append(self._unit(double, f"{block}_double_3x3_2"))
        if f"{block}_pool_proj" in self._modules:
            pooled = self.maxpool_last(x) if name == _LAST else self.average(x)
            branches.append(self._unit(pooled, f"{block}_pool_proj"))
        else:
            branches.append(self.maxpool(x))
        x = torch.cat(branches, dim=1)
        gate: Any = self._modules.get(f"{block}_se")
        return x if gate is None else gate(x)

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return [self._stem, self._second, *(partial(self._block, name) for name in _BLOCKS)]


register("bn_inception", BNInception, top1=74.8)
register("se_bn_inception", BNInception, se=True, top1=75.8)
