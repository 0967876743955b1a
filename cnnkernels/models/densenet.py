"""DenseNet: Huang, Liu, van der Maaten, Weinberger 2016, arXiv:1608.06993, table 1; torchvision's parameter names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import FusedBlock, FusedSequential, MaxPool2d


class DenseLayer(FusedBlock):
    """BN + ReLU + 1x1 convolution to 4 * growth_rate channels, BN + ReLU + 3x3 convolution to growth_rate.

    x: the maps of all layers before, [N, in_channels, H, W].  Returns its own, [N, growth_rate, H, W].
    memory_efficient: in training, what comes before the 3x3 convolution is computed again for the gradient instead of
    kept (Pleiss et al. 2017, arXiv:1707.06990).
    """

    def __init__(self, in_channels: int, growth_rate: int, drop_rate: float, memory_efficient: bool) -> None:
        super().__init__()
        middle = 4 * growth_rate
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, middle, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(middle)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(middle, growth_rate, 3, padding=1, bias=False)
        self.drop_rate, self.memory_efficient = drop_rate, memory_efficient

    def _bottleneck(self, maps: Tensor) -> Tensor:
        return self.fused(self.fused(maps, None, "norm1", "relu1"), "conv1", "norm2", "relu2")

    def forward(self, x: Tensor) -> Tensor:
        if self.memory_efficient and self.training and torch.is_grad_enabled():
            y: Any = checkpoint(self._bottleneck, x, use_reentrant=False)
        else:
            y = self._bottleneck(x)
        y = self.fused(y, "conv2")
        return nn.functional.dropout(y, self.drop_rate, self.training) if self.drop_rate else y


class DenseBlock(nn.ModuleDict):
    """Layers ``denselayer1``, ...: each sees the maps of all before it.  Returns all maps joined."""

    def __init__(
        self, layers: int, in_channels: int, growth_rate: int, drop_rate: float, memory_efficient: bool
    ) -> None:
        super().__init__()
        for i in range(layers):
            layer = DenseLayer(in_channels + i * growth_rate, growth_rate, drop_rate, memory_efficient)
            self.add_module(f"denselayer{i + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.values():
            x = torch.cat((x, layer(x)), dim=1)
        return x


def _transition(channels: int) -> FusedSequential:
    """Half the channels, half the size."""
    return FusedSequential(
        OrderedDict(
            norm=nn.BatchNorm2d(channels),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(channels, channels // 2, 1, bias=False),
            pool=nn.AvgPool2d(2, 2),
        )
    )


class DenseNet(Network):
    """7x7 stem, max pooling, four dense blocks with transitions between, BN + ReLU, pooling, one linear layer.

    layers: per block.  growth_rate: channels that a layer adds.  drop_rate: after every layer, as the paper has it.
    memory_efficient: see ``DenseLayer``.  Arguments and results else as in ``Network``.
    """

    def __init__(
        self,
        layers: Sequence[int],
        growth_rate: int = 32,
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.0,
        memory_efficient: bool = False,
        **kw: Any,
    ) -> None:
        super().__init__()
        channels, stride = 2 * growth_rate, 4
        children: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=nn.Conv2d(in_chans, channels, 7, 2, 3, bias=False),
            norm0=nn.BatchNorm2d(channels),
            relu0=nn.ReLU(inplace=True),
            pool0=MaxPool2d(3, 2, 1),
        )
        ends, shapes = [0, 3], [(channels, 2)]
        for i, n in enumerate(layers, 1):
            children[f"denseblock{i}"] = DenseBlock(n, channels, growth_rate, drop_rate, memory_efficient)
            channels += n * growth_rate
            ends.append(len(children))
            shapes.append((channels, stride))
            if i < len(layers):
                children[f"transition{i}"] = _transition(channels)
                channels, stride = channels // 2, 2 * stride
        children["norm5"] = nn.BatchNorm2d(channels)
        ends[-1] = len(children)
        self._ends = ends
        self.features = FusedSequential(children)
        self.relu = nn.ReLU(inplace=True)
        self.classifier: Any = self.make_last_layer(channels, num_classes)
        shapes.append(shapes[-1])  # of the last block, once more behind the ReLU
        self.complete(shapes, features_only=features_only, **kw)

    def initialise(self, name: str, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        parts = [self.features.part(a, b) for a, b in zip(self._ends, self._ends[1:], strict=False)]
        return [*parts, self.relu] if "relu" in self._modules else [*parts]


register("densenet121", DenseNet, layers=(6, 12, 24, 16), top1=75.0)
register("densenet169", DenseNet, layers=(6, 12, 32, 32), top1=76.2)
register("densenet201", DenseNet, layers=(6, 12, 48, 32), top1=77.4)
