"""YOLOv4: Bochkovskiy, Wang, Liao 2020, arXiv:2004.10934; Scaled-YOLOv4: Wang, Bochkovskiy, Liao 2020, arXiv:2011.08036.

Layers, anchors and strides of the authors' configuration files.  Our keys; weights: Darknet's ``.weights`` files.
"""

from __future__ import annotations

from torch import Tensor, nn

from cnnkernels.models.registry import register
from cnnkernels.models.yolov3 import TopDownDetector, tiny_levels
from cnnkernels.nn import CBL, MaxPool2d, TinyCSP

TINY_ANCHORS = [
    [(81, 82), (135, 169), (344, 319)],
    [(23, 27), (37, 58), (81, 82)],
]
"""The fine level shares an anchor with the coarse one, and the smallest of six, (10, 14), is nobody's: as published."""


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


register("yolov4_tiny", YOLOv4Tiny, input_size=416, task="detection")
