"""One level of a head with anchors (YOLOv3, v4, v5) as a loss sees it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cnnkernels import _check
from cnnkernels.models.grid import positions


@dataclass(frozen=True)
class Cells:
    """P predictions of a level that stand for an object each."""

    image: Tensor
    """[P] int64: which image of the batch, as the next four."""
    anchor: Tensor
    row: Tensor
    column: Tensor
    target: Tensor
    """Which of the image's objects."""

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class AnchorLevel:
    """N images, A anchors for each of H x W cells.  The box of the code t in a cell, in pixels, s the sigmoid:

    centre   stride * (cell + scale_xy * s(t_xy) - (scale_xy - 1) / 2)
    size     anchor * exp(t_wh), or, ``squared``, anchor * (2 s(t_wh))^2
    """

    raw: Tensor
    """[N, A, H, W, 5 + C] logits: x, y, w, h, objectness, classes."""
    anchors: Tensor
    """[A, 2]: width, height in pixels."""
    stride: int
    scale_xy: float = 1.0
    squared: bool = False

    def codes_of(self, cells: Cells) -> Tensor:
        """[P, 5 + C] logits, float32 or float64."""
        codes = self.raw[cells.image, cells.anchor, cells.row, cells.column]
        return codes.to(_check.acc_dtype(codes))

    def boxes_of(self, codes: Tensor, cells: Cells) -> Tensor:
        """[P, 4]: x1, y1, x2, y2 in pixels of what ``codes_of`` returned."""
        cell = torch.stack((cells.column, cells.row), -1).to(codes.dtype)
        return self._decode(codes, cell, self.anchors[cells.anchor].to(codes.dtype))

    def boxes(self) -> Tensor:
        """[N, A, H, W, 4]: x1, y1, x2, y2 in pixels of all predictions."""
        codes = self.raw[..., :4].to(_check.acc_dtype(self.raw))
        return self._decode(codes, positions(codes), self.anchors[:, None, None].to(codes.dtype))

    def _decode(self, codes: Tensor, cell: Tensor, anchors: Tensor) -> Tensor:
        centre = (codes[..., :2].sigmoid() * self.scale_xy - (self.scale_xy - 1) / 2 + cell) * self.stride
        size = codes[..., 2:4]
        half = anchors * ((2 * size.sigmoid()).square() if self.squared else size.exp()) / 2
        return torch.cat((centre - half, centre + half), -1)
