"""ShuffleNet: Zhang, Zhou, Lin, Sun 2017, arXiv:1707.01083, table 1; parameter names of pytorchcv's ShuffleNet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.models.shufflenet_v2 import initialise_layer
from cnnkernels.nn import ChannelShuffle, ConvBNAct, FusedBlock, MaxPool2d

_UNITS = (4, 8, 4)  # the paper's stages 2 to 4
_WIDTHS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # channels of the first stage by groups; each stage doubles them


class GroupShuffleUnit(FusedBlock):
    """Grouped 1x1, shuffle, depthwise 3x3 (no activation), grouped 1x1, and the shortcut: figure 2 (b) and (c).

    in_channels, out_channels; they differ exactly where the unit halves the resolution: then the shortcut is a 3x3
    average pooling, and its channels follow those of the branch.
    groups: of both 1x1 convolutions and the shuffle.  first_groups: of the first convolution, where it differs.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int, first_groups: int | None = None) -> None:
        super().__init__()
        self.downsample = in_channels != out_channels
        middle, stride = out_channels // 4, 2 if self.downsample else 1
        out = out_channels - in_channels if self.downsample else out_channels
        first = groups if first_groups is None else first_groups
        self.compress_conv1 = nn.Conv2d(in_channels, middle, 1, groups=first, bias=False)
        self.compress_bn1 = nn.BatchNorm2d(middle)
        self.c_shuffle: Any = ChannelShuffle(groups) if groups > 1 else nn.Identity()
        self.dw_conv2 = nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False)
        self.dw_bn2 = nn.BatchNorm2d(middle)
        self.expand_conv3 = nn.Conv2d(middle, out, 1, groups=groups, bias=False)
        self.expand_bn3 = nn.BatchNorm2d(out)
        if self.downsample:
            self.avgpool: Any = nn.AvgPool2d(3, 2, 1)
        self.activ: Any = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.c_shuffle(self.fused(x, "compress_conv1", "compress_bn1", "activ"))
        y = self.fused(y, "dw_conv2", "dw_bn2")
        if not self.downsample:
            return self.fused(y, "expand_conv3", "expand_bn3", "activ", shortcut=x)
        # The activation of both parts before they are joined: the branch's comes with its BatchNorm.
        y = self.fused(y, "expand_conv3", "expand_bn3", "activ")
        return torch.cat((y, self.activ(self.avgpool(x))), dim=1)


class ShuffleNetV1(Network):
    """Stem, max pooling, three stages of units, pooling, one linear layer.

    groups: of the grouped 1x1 convolutions, 1, 2, 3, 4 or 8, which sets the widths, too (table 1).
    Arguments and results else as in ``Network``.
    """

    last_layer = "output"

    def __init__(
        self,
        groups: int,
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.0,
        **kw: Any,
    ) -> None:
        super().__init__()
        if groups not in _WIDTHS:
            raise ValueError(f"ShuffleNetV1: groups must be one of {', '.join(map(str, _WIDTHS))}, got {groups}")
        channels, shapes = 24, [(24, 2), (24, 4)]
        features: OrderedDict[str, nn.Module] = OrderedDict(
            init_block=ConvBNAct(in_chans, channels, 3, stride=2), init_pool=MaxPool2d(3, 2, 1)
        )
        for stage, units in enumerate(_UNITS):
            width, members = _WIDTHS[groups] << stage, OrderedDict[str, nn.Module]()
            for i in range(units):
                # The first convolution of all sees too few channels to be grouped (section 3.2).
                first_groups = 1 if stage == i == 0 else groups
                members[f"unit{i + 1}"] = GroupShuffleUnit(channels, width, groups, first_groups)
                channels = width
            features[f"stage{stage + 1}"] = nn.Sequential(members)
            shapes.append((channels, 8 << stage))
        self.features = nn.Sequential(features)
        self.drop_rate = drop_rate
        self.output: Any = self.make_last_layer(channels, num_classes)
        self.complete(shapes, features_only=features_only, **kw)

    def initialise(self, name: str, module: nn.Module) -> None:
        initialise_layer(module, first=name == "features.init_block.conv")

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return list(self.features)


register("shufflenet_v1_g1", ShuffleNetV1, groups=1, top1=66.4)
register("shufflenet_v1_g2", ShuffleNetV1, groups=2, top1=67.3)
register("shufflenet_v1_g3", ShuffleNetV1, groups=3, top1=67.4)
register("shufflenet_v1_g4", ShuffleNetV1, groups=4, top1=67.2)
register("shufflenet_v1_g8", ShuffleNetV1, groups=8, top1=67.6)
