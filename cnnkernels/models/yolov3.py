"""YOLOv3: Redmon, Farhadi 2018, arXiv:1804.02767; layers, anchors and strides of the authors' configuration files
``yolov3.cfg``, ``yolov3-spp.cfg`` and ``yolov3-tiny.cfg``.  Our keys; weights: Darknet's ``.weights`` files.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from cnnkernels.models.darknet import Darknet
from cnnkernels.models.darknet_detector import DarknetDetector, Level, Levels, YoloHead
from cnnkernels.models.registry import register
from cnnkernels.nn import CBL, DarknetSPP, MaxPool2d

ANCHORS = [
    [(116, 90), (156, 198), (373, 326)],
    [(30, 61), (62, 45), (59, 119)],
    [(10, 13), (16, 30), (33, 23)],
]
TINY_ANCHORS = [
    [(81, 82), (135, 169), (344, 319)],
    [(10, 14), (23, 27), (37, 58)],
]


def five_convolutions(in_channels: int, channels: int) -> nn.Sequential:
    """1x1 convolutions to ``channels`` and 3x3 ones to twice as many in turn; the last one is a 1x1."""
    return nn.Sequential(
        CBL(in_channels, channels),
        CBL(channels, 2 * channels, 3),
        CBL(2 * channels, channels),
        CBL(channels, 2 * channels, 3),
        CBL(2 * channels, channels),
    )


def pyramid_convolutions(in_channels: int, channels: int) -> nn.Sequential:
    """Six convolutions, as ``five_convolutions``, with spatial pyramid pooling after the third."""
    return nn.Sequential(
        CBL(in_channels, channels),
        CBL(channels, 2 * channels, 3),
        CBL(2 * channels, channels),
        DarknetSPP(),
        CBL(4 * channels, channels),
        CBL(channels, 2 * channels, 3),
        CBL(2 * channels, channels),
    )


class TopDownDetector(DarknetDetector):
    """A backbone that returns its maps from fine to coarse, then ``levels`` from coarse to fine."""

    backbone: nn.Module
    levels: Levels

    def heads(self) -> list[YoloHead]:
        return self.levels.heads()

    def raw(self, x: Tensor) -> list[Tensor]:
        return self.levels(self.backbone(x)[::-1])  # type: ignore[no-any-return]


def doubled(in_channels: int, out_channels: int) -> nn.Sequential:
    """A 1x1 convolution, then twice the height and width: every pixel four times."""
    return nn.Sequential(CBL(in_channels, out_channels), nn.Upsample(scale_factor=2.0, mode="nearest"))


class YOLOv3(TopDownDetector):
    """Darknet53 and three levels at strides 32, 16 and 8.  spp: spatial pyramid pooling at the first of them.

    num_classes, in_chans: see ``create_model``.  Arguments and results else as in ``DetectionNetwork``.
    """

    def __init__(self, spp: bool = False, num_classes: int = 80, in_chans: int = 3) -> None:
        super().__init__()
        self.backbone = Darknet(in_chans=in_chans, features_only=True, out_indices=(-3, -2, -1))
        levels, channels = [], 0
        for width in (512, 256, 128):
            head = YoloHead(width, 2 * width, 3, num_classes)
            if channels == 0:
                merge = (pyramid_convolutions if spp else five_convolutions)(2 * width, width)
                levels.append(Level(None, merge, head))
            else:
                # The coarser level's features in half as many channels, and twice as many of the backbone.
                levels.append(Level(doubled(channels, width), five_convolutions(3 * width, width), head))
            channels = width
        self.levels = Levels(levels)
        self.complete(num_classes, (32, 16, 8), ANCHORS, (1.0, 1.0, 1.0))


class TinyBackbone(nn.Module):
    """Seven convolutions of stride 1 with maximum pooling in between; returns maps of strides 16 (256 channels) and 32.

    The last pooling has stride 1 and looks one row and one column ahead: it pads the bottom and the right.
    """

    def __init__(self, in_chans: int) -> None:
        super().__init__()
        widths = (in_chans, 16, 32, 64, 128, 256, 512, 1024)
        self.convs = nn.ModuleList(CBL(a, b, 3) for a, b in pairwise(widths))
        self.pool = MaxPool2d(2, 2)
        self.last_pool = MaxPool2d(2, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        *first, fifth, sixth, seventh = self.convs
        for conv in first:
            x = self.pool(conv(x))
        fine = fifth(x)
        x = sixth(self.pool(fine))
        # No activation is above an infinite one, so padding with the border's own pixels is padding with nothing.
        return [fine, seventh(self.last_pool(F.pad(x, (0, 1, 0, 1), mode="replicate")))]


def tiny_levels(channels: int, num_classes: int) -> Levels:
    """Two levels, after a coarse map with ``channels`` and a fine one with 256."""
    coarse = Level(None, CBL(channels, 256), YoloHead(256, 512, 3, num_classes))
    return Levels([coarse, Level(doubled(256, 128), nn.Identity(), YoloHead(384, 256, 3, num_classes))])


class YOLOv3Tiny(TopDownDetector):
    """Seven convolutions and two levels at strides 32 and 16.  Arguments as for ``YOLOv3``."""

    def __init__(self, num_classes: int = 80, in_chans: int = 3) -> None:
        super().__init__()
        self.backbone = TinyBackbone(in_chans)
        self.levels = tiny_levels(1024, num_classes)
        self.complete(num_classes, (32, 16), TINY_ANCHORS, (1.0, 1.0))


register("yolov3", YOLOv3, input_size=416, task="detection", ap=31.0)
register("yolov3_spp", YOLOv3, input_size=608, task="detection", spp=True)
register("yolov3_tiny", YOLOv3Tiny, input_size=416, task="detection")
