"""MixNet: Tan, Le 2019, "MixConv: Mixed Depthwise Convolutional Kernels", arXiv:1907.09595; timm's parameter names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cnnkernels.models.mobile import round_channels
from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import FusedBlock, SqueezeExcite, create_activation


def _shares(channels: int, parts: int) -> list[int]:
    """Channels of each part: equal ones, and what is left over for the first."""
    share = channels // parts
    return [channels - share * (parts - 1), *[share] * (parts - 1)]


class MixedConv(FusedBlock):
    """The channels in parts, each with a convolution of its own: children "0", "1", ...; figure 2 of the paper.

    kernels: their sizes.  depthwise: one filter per channel, else every part is convolved densely (kernels of 1).
    """

    def __init__(self, c_in: int, c_out: int, kernels: Sequence[int], stride: int = 1, depthwise: bool = False) -> None:
        super().__init__()
        self.inputs = _shares(c_in, len(kernels))
        for i, (a, b, k) in enumerate(zip(self.inputs, _shares(c_out, len(kernels)), kernels, strict=True)):
            conv = nn.Conv2d(a, b, k, stride, k // 2, groups=a if depthwise else 1, bias=False)
            self.add_module(str(i), conv)

    def forward(self, x: Tensor) -> Tensor:
        dense = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        parts = [
            part.contiguous(memory_format=dense) for part in x.split(self.inputs, dim=1)
        ]  # as the kernels take them
        return torch.cat([self.fused(part, str(i)) for i, part in enumerate(parts)], dim=1)


def _convolution(c_in: int, c_out: int, kernels: Sequence[int], stride: int = 1, depthwise: bool = False) -> nn.Module:
    if len(kernels) > 1:
        return MixedConv(c_in, c_out, kernels, stride, depthwise)
    k = kernels[0]
    return nn.Conv2d(c_in, c_out, k, stride, k // 2, groups=c_in if depthwise else 1, bias=False)


class MixBlock(FusedBlock):
    """Inverted residual with mixed convolutions and a squeeze-and-excitation.

    kernels: of the depthwise convolution.  expansion, projection: parts of the 1x1 convolutions.  expand_ratio: 1 leaves the
    expansion out.  se_ratio: middle of the gate over in_channels; 0: none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernels: Sequence[int],
        stride: int,
        expand_ratio: int,
        se_ratio: float,
        act: str,
        expansion: int = 1,
        projection: int = 1,
    ) -> None:
        super().__init__()
        hidden = round_channels(in_channels * expand_ratio)
        self.expands = expand_ratio != 1
        if self.expands:
            self.conv_pw: Any = _convolution(in_channels, hidden, (1,) * expansion)
            self.bn1 = nn.BatchNorm2d(hidden)
            self.act1 = create_activation(act, inplace=True)
        self.conv_dw: Any = _convolution(hidden, hidden, kernels, stride, depthwise=True)
        first, second = ("bn2", "bn3") if self.expands else ("bn1", "bn2")
        self.add_module(first, nn.BatchNorm2d(hidden))
        self.act2 = create_activation(act, inplace=True)
        self.se: Any = None
        if se_ratio:
            squeeze = round(in_channels * se_ratio)
            self.se = SqueezeExcite(hidden, squeeze, act, names=("conv_reduce", "conv_expand"))
        self._last = "conv_pwl" if self.expands else "conv_pw"
        self.add_module(self._last, _convolution(hidden, out_channels, (1,) * projection))
        self.add_module(second, nn.BatchNorm2d(out_channels))
        self._norms = (first, second)
        self.adds = stride == 1 and in_channels == out_channels

    def _unit(self, x: Tensor, conv: str, bn: str, act: str | None, residual: Tensor | None = None) -> Tensor:
        mixed = self._modules[conv]
        if isinstance(mixed, MixedConv):  # BatchNorm and activation go over all parts together
            return self.fused(mixed(x), None, bn, act, residual)
        return self.fused(x, conv, bn, act, residual)

    def forward(self, x: Tensor) -> Tensor:
        y = self._unit(x, "conv_pw", "bn1", "act1") if self.expands else x
        y = self._unit(y, "conv_dw", self._norms[0], "act2")
        if self.se is not None:
            y = self.se(y)
        return self._unit(y, self._last, self._norms[1], None, x if self.adds else None)


class Row(NamedTuple):
    """Blocks of one kind: the first has the stride."""

    blocks: int
    kernels: tuple[int, ...]
    stride: int
    expand_ratio: int
    channels: int
    se_ratio: float = 0.0
    act: str = "relu"
    expansion: int = 1
    projection: int = 1


_ALL = (3, 5, 7, 9, 11)
_SMALL: tuple[tuple[Row, ...], ...] = (
    (Row(1, (3,), 1, 1, 16),),
    (Row(1, (3,), 2, 6, 24, 0.0, "relu", 2, 2), Row(1, (3,), 1, 3, 24, 0.0, "relu", 2, 2)),
    (Row(1, _ALL[:3], 2, 6, 40, 0.5, "silu"), Row(3, _ALL[:2], 1, 6, 40, 0.5, "silu", 2, 2)),
    (Row(1, _ALL[:3], 2, 6, 80, 0.25, "silu", 1, 2), Row(2, _ALL[:2], 1, 6, 80, 0.25, "silu", 1, 2)),
    (Row(1, _ALL[:3], 1, 6, 120, 0.5, "silu", 2, 2), Row(2, _ALL[:4], 1, 3, 120, 0.5, "silu", 2, 2)),
    (Row(1, _ALL, 2, 6, 200, 0.5, "silu"), Row(2, _ALL[:4], 1, 6, 200, 0.5, "silu", 1, 2)),
)
_MEDIUM: tuple[tuple[Row, ...], ...] = (
    (Row(1, (3,), 1, 1, 24),),
    (Row(1, _ALL[:3], 2, 6, 32, 0.0, "relu", 2, 2), Row(1, (3,), 1, 3, 32, 0.0, "relu", 2, 2)),
    (Row(1, _ALL[:4], 2, 6, 40, 0.5, "silu"), Row(3, _ALL[:2], 1, 6, 40, 0.5, "silu", 2, 2)),
    (Row(1, _ALL[:3], 2, 6, 80, 0.25, "silu"), Row(3, _ALL[:4], 1, 6, 80, 0.25, "silu", 2, 2)),
    (Row(1, (3,), 1, 6, 120, 0.5, "silu"), Row(3, _ALL[:4], 1, 3, 120, 0.5, "silu", 2, 2)),
    (Row(1, _ALL[:4], 2, 6, 200, 0.5, "silu"), Row(3, _ALL[:4], 1, 6, 200, 0.5, "silu", 1, 2)),
)


class MixNet(Network):
    """Stem, six stages of ``MixBlock``, a 1x1 convolution to 1536 channels, pooling, dropout, one linear layer.

    stages: rows of blocks.  stem: channels of the first convolution.  width_mult: of all channels but the last.
    Arguments and results else as in ``Network``.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Row]],
        stem: int,
        width_mult: float = 1.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.2,
        **kw: Any,
    ) -> None:
        super().__init__()
        channels = round_channels(stem * width_mult)
        self.conv_stem = nn.Conv2d(in_chans, channels, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU(inplace=True)
        stride, shapes = 2, []
        made = []
        for rows in stages:
            blocks = []
            for row in rows:
                out = round_channels(row.channels * width_mult)
                for i in range(row.blocks):
                    step = row.stride if i == 0 else 1
                    kind = (row.kernels, step, row.expand_ratio, row.se_ratio, row.act, row.expansion, row.projection)
                    blocks.append(MixBlock(channels, out, *kind))
                    channels, stride = out, stride * step
            made.append(nn.Sequential(*blocks))
            shapes.append((channels, stride))
        self.blocks = nn.Sequential(*made)
        self.conv_head = nn.Conv2d(channels, 1536, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1536)
        self.act2 = nn.ReLU(inplace=True)
        self.drop_rate = drop_rate
        self.classifier: Any = self.make_last_layer(1536, num_classes)
        self.complete([(self.conv_stem.out_channels, 2), *shapes], features_only=features_only, **kw)

    head = ("conv_head", "bn2", "classifier")

    def initialise(self, name: str, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0, (2 / fan_out) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = module.out_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound)
            nn.init.zeros_(module.bias)

    def _stem(self, x: Tensor) -> Tensor:
        return self.fused(x, "conv_stem", "bn1", "act1")

    def _last(self, x: Tensor) -> Tensor:
        return self.fused(x, "conv_head", "bn2", "act2")

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return [self._stem, *self.blocks, self._last]

    def forward_head(self, x: Tensor) -> Tensor:
        return self.classifier(nn.functional.dropout(x.mean((2, 3)), self.drop_rate, self.training))


register("mixnet_s", MixNet, stages=_SMALL, stem=16, top1=75.8)
register("mixnet_m", MixNet, stages=_MEDIUM, stem=24, top1=77.0)
register("mixnet_l", MixNet, stages=_MEDIUM, stem=24, width_mult=1.3, top1=78.9)
