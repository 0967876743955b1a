"""MobileNeXt: Zhou, Hou, Chen, Feng, Yan 2020, "Rethinking Bottleneck Structure", arXiv:2007.02269, table 2.

Parameter names as in the authors' repository: ``features.N.conv.K``, ``classifier.1``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from cnnkernels.models.mobile import initialise_layer, round_channels
from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import FusedSequential, conv_bn_act

# reduction ratio, channels, blocks, stride of the first block
_STAGES = (
    *((2, 96, 1, 2), (6, 144, 1, 1), (6, 192, 3, 2), (6, 288, 3, 2)),
    *((6, 384, 4, 1), (6, 576, 4, 2), (6, 960, 3, 1), (6, 1280, 1, 1)),
)


class Sandglass(nn.Module):
    """Depthwise, 1x1 to few channels, 1x1 to many, depthwise; the shortcut joins the wide ends: figure 3 (b) and (c).

    reduction: in_channels over those in the middle, which are a multiple of 16 and at least a sixth of out_channels.
    The first depthwise convolution stands where the input and the output are alike and in the first block of all
    (reduction 2), the second one there and at stride 2.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, reduction: int) -> None:
        super().__init__()
        middle = round_channels(max(in_channels // reduction, math.ceil(out_channels / 6)), 16)
        self.adds = stride == 1 and in_channels == out_channels
        layers: list[nn.Module] = []
        if self.adds or reduction == 2:
            layers += conv_bn_act(in_channels, in_channels, 3, groups=in_channels)
        layers += [nn.Conv2d(in_channels, middle, 1, bias=False), nn.BatchNorm2d(middle)]
        layers += conv_bn_act(middle, out_channels, 1)
        if self.adds or stride == 2:
            layers.append(nn.Conv2d(out_channels, out_channels, 3, stride, 1, groups=out_channels, bias=False))
            layers.append(nn.BatchNorm2d(out_channels))
        self.conv = FusedSequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, residual=x if self.adds else None)


class MobileNeXt(Network):
    """Stem, 20 sandglass blocks, pooling, dropout, one linear layer.

    width_mult: of all channels, rounded to multiples of 16.  Arguments and results else as in ``Network``.
    """

    last_layer = "classifier.1"

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
        channels, stride = round_channels(32 * width_mult, 16), 2
        features: list[nn.Module] = [conv_bn_act(in_chans, channels, 3, stride=2)]
        shapes = [(channels, stride)]
        for reduction, width, blocks, first_stride in _STAGES:
            out = round_channels(width * width_mult, 16)
            for i in range(blocks):
                step = first_stride if i == 0 else 1
                features.append(Sandglass(channels, out, step, reduction))
                channels, stride = out, stride * step
                shapes.append((channels, stride))
        self.features = nn.Sequential(*features)
        self.classifier: Any = nn.Sequential(nn.Dropout(drop_rate), self.make_last_layer(channels, num_classes))
        self.complete(shapes, features_only=features_only, **kw)

    def initialise(self, name: str, module: nn.Module) -> None:
        initialise_layer(module)

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return list(self.features)


register("mobilenext", MobileNeXt, top1=74.0)
