"""GhostNet: Han, Wang, Tian, Guo, Xu, Xu 2019, arXiv:1911.11907, table 1; timm's parameter names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.models.mobile import round_channels
from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import FusedBlock, FusedSequential, SqueezeExcite, conv_bn_act
from cnnkernels.nn.sequential import plus

# by stage: kernel_size, hidden channels, channels, whether to squeeze, stride
_STAGES: tuple[tuple[tuple[int, int, int, bool, int], ...], ...] = (
    ((3, 16, 16, False, 1),),
    ((3, 48, 24, False, 2),),
    ((3, 72, 24, False, 1),),
    ((5, 72, 40, True, 2),),
    ((5, 120, 40, True, 1),),
    ((3, 240, 80, False, 2),),
    (
        (3, 200, 80, False, 1),
        (3, 184, 80, False, 1),
        (3, 184, 80, False, 1),
        (3, 480, 112, True, 1),
        (3, 672, 112, True, 1),
    ),
    ((5, 672, 160, True, 2),),
    ((5, 960, 160, False, 1), (5, 960, 160, True, 1), (5, 960, 160, False, 1), (5, 960, 160, True, 1)),
)


class GhostModule(nn.Module):
    """Half of the channels by a 1x1 convolution, the other half from them by a depthwise 3x3 one: figure 1 (b).

    out_channels: even.  act: a name, or None.
    """

    def __init__(self, in_channels: int, out_channels: int, act: str | None) -> None:
        super().__init__()
        if out_channels % 2:
            raise ValueError(f"GhostModule: out_channels must be even, got {out_channels}")
        half = out_channels // 2
        self.primary_conv: Any = conv_bn_act(in_channels, half, 1, act=act)
        self.cheap_operation: Any = conv_bn_act(half, half, 3, groups=half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        x = self.primary_conv(x)
        return torch.cat((x, self.cheap_operation(x)), dim=1)


class GhostBottleneck(FusedBlock):
    """Ghost module, at stride 2 a depthwise convolution, squeeze-and-excitation, ghost module, shortcut: figure 3."""

    def __init__(
        self, in_channels: int, hidden: int, out_channels: int, kernel_size: int, stride: int, squeeze_channels: int
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.ghost1: Any = GhostModule(in_channels, hidden, "relu")
        self.stride = stride
        if stride > 1:
            self.conv_dw = nn.Conv2d(hidden, hidden, kernel_size, stride, padding, groups=hidden, bias=False)
            self.bn_dw = nn.BatchNorm2d(hidden)
        self.se: Any = None
        if squeeze_channels:
            self.se = SqueezeExcite(hidden, squeeze_channels, gate="hard_sigmoid", names=("conv_reduce", "conv_expand"))
        self.ghost2: Any = GhostModule(hidden, out_channels, None)
        c, layers = in_channels, []
        if stride > 1 or c != out_channels:
            layers = [
                nn.Conv2d(c, c, kernel_size, stride, padding, groups=c, bias=False),
                nn.BatchNorm2d(c),
                nn.Conv2d(c, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            ]
        self.shortcut: Any = FusedSequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ghost1(x)
        if self.stride > 1:
            y = self.fused(y, "conv_dw", "bn_dw")
        if self.se is not None:
            y = self.se(y)
        return plus(self.shortcut, x, self.ghost2(y))


class LastConvolution(FusedBlock):
    """1x1 convolution, BatchNorm and ReLU under timm's names."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.fused(x, "conv", "bn1", "act")


class GhostNet(Network):
    """Stem, 16 ghost bottlenecks, 1x1 convolution, pooling, 1x1 convolution, dropout, one linear layer.

    width_mult: of all channels but the last 1280, rounded to multiples of 4.
    Arguments and results else as in ``Network``.  Initial weights are PyTorch's.
    """

    head = ("conv_head", "act2", "classifier")

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.2,
        width_mult: float = 1.0,
        **kw: Any,
    ) -> None:
        super().__init__()

        def wide(c: int) -> int:
            return round_channels(c * width_mult, 4)

        channels, stride = wide(16), 2
        self.conv_stem = nn.Conv2d(in_chans, channels, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU(inplace=True)
        shapes = [(channels, stride)]
        stages: list[nn.Module] = []
        for blocks in _STAGES:
            members = []
            for kernel_size, hidden, out, squeeze, block_stride in blocks:
                squeeze_channels = round_channels(wide(hidden) * 0.25, 4) if squeeze else 0
                members.append(
                    GhostBottleneck(channels, wide(hidden), wide(out), kernel_size, block_stride, squeeze_channels)
                )
                channels, stride = wide(out), stride * block_stride
            stages.append(nn.Sequential(*members))
            shapes.append((channels, stride))
        stages.append(nn.Sequential(LastConvolution(channels, wide(960))))
        self.blocks = nn.Sequential(*stages)
        self.conv_head: Any = nn.Conv2d(wide(960), 1280, 1)
        self.act2: Any = nn.ReLU(inplace=True)
        self.drop_rate = drop_rate
        self.classifier: Any = self.make_last_layer(1280, num_classes)
        self.complete(shapes, features_only=features_only, **kw)

    def initialise(self, name: str, module: nn.Module) -> None:
        pass

    def _stem(self, x: Tensor) -> Tensor:
        return self.fused(x, "conv_stem", "bn1", "act1")

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return [self._stem, *self.blocks]

    def forward_head(self, x: Tensor) -> Tensor:
        x = self.fused(x.mean((2, 3), keepdim=True), "conv_head", None, "act2").flatten(1)
        return self.classifier(nn.functional.dropout(x, self.drop_rate, self.training))


register("ghostnet", GhostNet, top1=73.9)
register("ghostnet_050", GhostNet, width_mult=0.5, top1=66.2)
register("ghostnet_130", GhostNet, width_mult=1.3, top1=75.7)
