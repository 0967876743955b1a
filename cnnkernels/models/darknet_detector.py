"""What the detectors of the Darknet framework share: prediction layers, anchors, decoding, preprocessing, initial weights.

Redmon, Farhadi 2018, "YOLOv3", arXiv:1804.02767, section 2.1; Bochkovskiy, Wang, Liao 2020, "YOLOv4", arXiv:2004.10934,
section 3.3 (grid sensitivity).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from cnnkernels.models.detection_network import DetectionNetwork, Preprocessing
from cnnkernels.models.grid import in_full_precision, positions
from cnnkernels.nn import CBL, CBM, FusedBlock

Anchors = Sequence[tuple[int, int]]
"""(width, height) in pixels of the input."""

INITIAL_OBJECTNESS = 0.01
"""Of a network before training: nearly every candidate is background, and the loss should not begin with saying so."""


class YoloHead(FusedBlock):
    """A 3x3 convolution to ``width`` channels and a 1x1 one with a bias to the candidates' logits.

    x: [N, in_channels, H, W], returns [N, anchors, H, W, 5 + num_classes]: x, y, w, h, objectness, classes.
    unit: class of the first convolution.
    """

    def __init__(
        self, in_channels: int, width: int, anchors: int, num_classes: int, unit: type[CBL] | type[CBM] = CBL
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"YoloHead: num_classes must be at least 1, got {num_classes}")
        self.anchors = anchors
        self.conv = unit(in_channels, width, 3)
        self.pred = nn.Conv2d(width, anchors * (5 + num_classes), 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fused(self.conv(x), "pred")
        return y.unflatten(1, (self.anchors, -1)).permute(0, 1, 3, 4, 2)


class Level(nn.Module):
    """One resolution: the neighbour's features brought to it, joined with the map it has already, then the head.

    resample: brings the features of the level before to this resolution; None for the first level.
    merge: after the join.
    x: [N, C, H, W], features of the level before; of the first level its own map.  skip: the map of this resolution.
    Returns (features for the next level, logits of ``YoloHead``).
    """

    def __init__(self, resample: nn.Module | None, merge: nn.Module, head: YoloHead) -> None:
        super().__init__()
        self.resample, self.merge, self.head = resample, merge, head

    def forward(self, x: Tensor, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.resample is not None and skip is not None:
            x = torch.cat((self.resample(x), skip), dim=1)
        x = self.merge(x)
        return x, self.head(x)


class Levels(nn.ModuleList):
    """``Level`` after ``Level``, each with the features of the one before.

    maps: one tensor [N, C, H, W] for each, in their order.  Returns their logits.
    """

    def heads(self) -> list[YoloHead]:
        return [level.head for level in self]  # type: ignore[misc]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        x, skips = maps[0], [None, *maps[1:]]
        logits = []
        for level, skip in zip(self, skips, strict=True):
            x, of_level = level(x, skip)
            logits.append(of_level)
        return logits


def decode_level(raw: Tensor, anchors: Anchors | Tensor, stride: int, scale_xy: float, squared: bool = False) -> Tensor:
    """Predictions [N, A * H * W, 5 + C] of one level's logits ``raw`` [N, A, H, W, 5 + C], in pixels, float32 or wider.

        x, y = stride * (cell + scale_xy * sigmoid(t) - (scale_xy - 1) / 2)
        w, h = anchor * exp(t), or with ``squared`` anchor * (2 * sigmoid(t))^2

    anchors: A of them, in pixels.  squared: Scaled-YOLOv4's sizes (Wang et al. 2020, arXiv:2011.08036), Darknet's
    ``new_coords``; those of YOLOv5, too.
    """
    raw = in_full_precision(raw)
    sizes = torch.as_tensor(anchors, dtype=raw.dtype, device=raw.device)[:, None, None]
    centres = (raw[..., :2].sigmoid() * scale_xy + (positions(raw) - (scale_xy - 1) / 2)) * stride
    extents = sizes * ((2 * raw[..., 2:4].sigmoid()).square() if squared else raw[..., 2:4].exp())
    return torch.cat((centres, extents, raw[..., 4:].sigmoid()), dim=-1).flatten(1, 3)


class DarknetDetector(DetectionNetwork):
    """Base of YOLOv3 and YOLOv4.  ``raw`` is one tensor [N, A, H, W, 5 + num_classes] of logits for every level.

    A subclass makes its convolutions in the order of the configuration file, in which weight files have them, names the
    ``YoloHead`` of every level in ``heads`` and calls ``complete``.

    Darknet pads with 0.5, half of the largest pixel: 127.5, of which 128 is the whole number.
    """

    preprocessing: ClassVar[Preprocessing] = Preprocessing(fill=(128, 128, 128))
    squared: ClassVar[bool] = False
    """How sizes are decoded: see ``decode_level``."""

    anchors: list[list[tuple[int, int]]]
    """(width, height) pairs of every level, pixels of the input."""
    scale_xy: tuple[float, ...]
    """Grid sensitivity of every level."""

    def heads(self) -> Sequence[YoloHead]:
        """In the order of ``strides``."""
        raise NotImplementedError

    def complete(
        self, num_classes: int, strides: Sequence[int], anchors: Sequence[Anchors], scale_xy: Sequence[float]
    ) -> None:
        """Last call of a constructor: what describes the levels, and initial weights."""
        self.backend = None
        self.num_classes = num_classes
        self.strides, self.scale_xy = tuple(strides), tuple(scale_xy)
        self.anchors = [list(level) for level in anchors]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.1, mode="fan_in", nonlinearity="leaky_relu")
        for head in self.heads():
            nn.init.normal_(head.pred.weight, std=0.01)
            nn.init.zeros_(head.pred.bias)  # type: ignore[arg-type]
            with torch.no_grad():
                bias = head.pred.bias.view(head.anchors, -1)  # type: ignore[union-attr]
                bias[:, 4] = math.log(INITIAL_OBJECTNESS / (1 - INITIAL_OBJECTNESS))

    def decode(self, raw: Sequence[Tensor]) -> Tensor:
        levels = zip(raw, self.anchors, self.strides, self.scale_xy, strict=True)
        return torch.cat([decode_level(t, a, stride, scale, self.squared) for t, a, stride, scale in levels], dim=1)
