"""YOLOv4: Bochkovskiy, Wang, Liao 2020, arXiv:2004.10934; Scaled-YOLOv4: Wang, Bochkovskiy, Liao 2020, arXiv:2011.08036.

Layers, anchors and strides of the authors' configuration files.  Our keys; weights: Darknet's ``.weights`` files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnkernels.models.darknet_detector import DarknetDetector, Level, Levels, YoloHead
from cnnkernels.models.registry import register
from cnnkernels.models.yolov3 import TopDownDetector, five_convolutions, pyramid_convolutions, tiny_levels
from cnnkernels.nn import CBL, CBM, CSPX, DarknetSPP, MaxPool2d, ResX, TinyCSP

STRIDES = (8, 16, 32)
ANCHORS = [
    [(12, 16), (19, 36), (40, 28)],
    [(36, 75), (76, 55), (72, 146)],
    [(142, 110), (192, 243), (459, 401)],
]
TINY_ANCHORS = [
    [(81, 82), (135, 169), (344, 319)],
    [(23, 27), (37, 58), (81, 82)],
]
"""The fine level shares an anchor with the coarse one, and the smallest of six, (10, 14), is nobody's: as published."""


class CSPBackbone(nn.Module):
    """CSPDarknet with Mish: a 3x3 convolution, five stages that halve the resolution; returns the last three's maps.

    width: channels of the first stage; each further one has twice as many.  depths: units of the stages.
    cross_first: the first stage is a cross stage, too.
    """

    def __init__(self, in_chans: int, width: int, depths: Sequence[int], cross_first: bool) -> None:
        super().__init__()
        self.stem = CBM(in_chans, 32, 3)
        stages = [CSPX(32, width, depths[0], first=True) if cross_first else ResX(32, width, depths[0], "mish")]
        stages += [CSPX(width << i, 2 * width << i, depth) for i, depth in enumerate(depths[1:])]
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[-3:]


class CrossBranch(nn.Module):
    """``conv_out(cat(inner(x), conv_cross(x)))``: a cross stage without residual units, with Mish.

    x: [N, in_channels, H, W], returns [N, channels, H, W].  inner: from in_channels to channels.
    """

    def __init__(self, in_channels: int, channels: int, inner: nn.Module) -> None:
        super().__init__()
        self.conv_cross = CBM(in_channels, channels)
        self.inner = inner
        self.conv_out = CBM(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(torch.cat((self.inner(x), self.conv_cross(x)), dim=1))  # type: ignore[no-any-return]


def pairs(channels: int, count: int) -> list[nn.Module]:
    """count times a 1x1 and a 3x3 convolution."""
    return [CBM(channels, channels, size) for _ in range(count) for size in (1, 3)]


def cross_convolutions(in_channels: int, channels: int, count: int) -> nn.Sequential:
    """A 1x1 convolution, then ``CrossBranch`` around ``pairs``."""
    return nn.Sequential(
        CBM(in_channels, channels), CrossBranch(channels, channels, nn.Sequential(*pairs(channels, count)))
    )


def cross_pyramid(in_channels: int, channels: int, count: int) -> CrossBranch:
    """``CrossBranch`` around ``count`` pairs of convolutions, with spatial pyramid pooling inside the second pair."""
    before = (CBM(in_channels, channels), CBM(channels, channels, 3), CBM(channels, channels))
    after = (CBM(4 * channels, channels), CBM(channels, channels, 3), *pairs(channels, count - 2))
    return CrossBranch(in_channels, channels, nn.Sequential(*before, DarknetSPP(), *after))


class UpStep(nn.Module):
    """Features of the coarser level, doubled, joined with the backbone's map; both come with ``2 * width`` channels.

    x: [N, 2 * width, H, W], skip: [N, 2 * width, 2 H, 2 W], returns [N, width, 2 H, 2 W].
    """

    def __init__(self, width: int, unit: type[CBL] | type[CBM], merge: nn.Module) -> None:
        super().__init__()
        self.conv, self.lateral, self.merge = unit(2 * width, width), unit(2 * width, width), merge

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        doubled = F.interpolate(self.conv(x), scale_factor=2.0, mode="nearest")
        return self.merge(torch.cat((self.lateral(skip), doubled), dim=1))  # type: ignore[no-any-return]


class PathAggregationDetector(DarknetDetector):
    """Backbone, spatial pyramid pooling, a way up to stride 8 and one back to stride 32 (Liu et al., arXiv:1803.01534)."""

    def add_layers(
        self,
        backbone: nn.Module,
        pyramid: nn.Module,
        width: int,
        merge: Callable[[int, int], nn.Module],
        unit: type[CBL] | type[CBM],
        num_classes: int,
    ) -> None:
        """width: channels that pyramid returns, half of the backbone's last map.

        merge(in_channels, channels): makes what follows a join.  unit: class of all other convolutions.
        """
        self.backbone, self.pyramid = backbone, pyramid
        coarse, middle, fine = width, width // 2, width // 4
        self.up = nn.ModuleList(UpStep(c, unit, merge(2 * c, c)) for c in (middle, fine))
        levels = [Level(None, nn.Identity(), YoloHead(fine, 2 * fine, 3, num_classes, unit))]
        for before, c in ((fine, middle), (middle, coarse)):
            down = unit(before, c, 3, 2)
            levels.append(Level(down, merge(2 * c, c), YoloHead(c, 2 * c, 3, num_classes, unit)))
        self.levels = Levels(levels)

    def heads(self) -> list[YoloHead]:
        return self.levels.heads()

    def raw(self, x: Tensor) -> list[Tensor]:
        fine, middle, coarse = self.backbone(x)
        coarse = self.pyramid(coarse)
        middle = self.up[0](coarse, middle)
        return self.levels([self.up[1](middle, fine), middle, coarse])  # type: ignore[no-any-return]


class YOLOv4(PathAggregationDetector):
    """CSPDarknet53 with Mish, a neck with leaky ReLU, three levels at strides 8, 16 and 32.

    num_classes, in_chans: see ``create_model``.  Arguments and results else as in ``DetectionNetwork``.
    """

    def __init__(self, num_classes: int = 80, in_chans: int = 3) -> None:
        super().__init__()
        backbone = CSPBackbone(in_chans, 64, (1, 2, 8, 8, 4), cross_first=True)
        self.add_layers(backbone, pyramid_convolutions(1024, 512), 512, five_convolutions, CBL, num_classes)
        self.complete(num_classes, STRIDES, ANCHORS, (1.2, 1.1, 1.05))


class ScaledYOLOv4(PathAggregationDetector):
    """Cross stages and Mish in the neck, too, and the box sizes of ``decode_level(squared=True)``.

    width, depths: of the backbone's five stages, see ``CSPBackbone``.  count: pairs of convolutions in the neck's cross stages.
    Arguments else as for ``YOLOv4``.
    """

    squared: ClassVar[bool] = True

    def __init__(
        self,
        width: int = 64,
        depths: Sequence[int] = (1, 2, 8, 8, 4),
        count: int = 2,
        num_classes: int = 80,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        backbone, half = CSPBackbone(in_chans, width, depths, cross_first=False), 8 * width
        merge = partial(cross_convolutions, count=count)
        self.add_layers(backbone, cross_pyramid(2 * half, half, count), half, merge, CBM, num_classes)
        self.complete(num_classes, STRIDES, ANCHORS, (2.0, 2.0, 2.0))


class TinyCSPBackbone(nn.Module):
    """CSPDarknet53-tiny: returns maps of strides 16 (256 channels) and 32 (512)."""

    def __init__(self, in_chans: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(CBL(in_chans, 32, 3, 2), CBL(32, 64, 3, 2))
        self.blocks = nn.ModuleList(TinyCSP(channels) for channels in (64, 128, 256))
        self.pool = MaxPool2d(2, 2)
        self.conv = CBL(512, 512, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = fine = self.stem(x)
        for block in self.blocks:
            x, fine = block(x)
            x = self.pool(x)
        return [fine, self.conv(x)]


class YOLOv4Tiny(TopDownDetector):
    """CSPDarknet53-tiny and two levels at strides 32 and 16.

    num_classes, in_chans: see ``create_model``.  Arguments and results else as in ``DetectionNetwork``.
    """

    def __init__(self, num_classes: int = 80, in_chans: int = 3) -> None:
        super().__init__()
        self.backbone = TinyCSPBackbone(in_chans)
        self.levels = tiny_levels(512, num_classes)
        self.complete(num_classes, (32, 16), TINY_ANCHORS, (1.05, 1.05))


register("yolov4", YOLOv4, input_size=608, task="detection", ap=43.5)
register("yolov4_csp_640", ScaledYOLOv4, input_size=640, task="detection", ap=48.7)
register(
    "yolov4x_mish_640",
    ScaledYOLOv4,
    input_size=640,
    task="detection",
    ap=50.1,
    width=80,
    depths=(1, 3, 10, 10, 5),
    count=3,
)
register("yolov4_tiny", YOLOv4Tiny, input_size=416, task="detection")
