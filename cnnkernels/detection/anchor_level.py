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

    @property
    def place(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Where they are in [N, A, H, W]."""
        return self.image, self.anchor, self.row, self.column


@dataclass(frozen=True)
class AnchorLevel:
    """N images, A anchors for each of H x W cells.  The box of the code t in a cell, in pixels, s the sigmoid:

    centre   stride * (cell + scale_xy * s(t_xy) - (scale_xy - 1) / 2)
    size     anchor * exp(t_wh), or, ``squared``, anchor * (2 s(t_wh))^2
    """

    codes: Tensor
    """[N, A, H, W, 4]: x, y, w, h, before any function; any floating-point type, like the next two."""
    objectness: Tensor
    """[N, A, H, W] logits."""
    classes: Tensor
    """[N, A, H, W, C] logits."""
    anchors: Tensor
    """[A, 2]: width, height in pixels."""
    stride: int
    scale_xy: float = 1.0
    squared: bool = False

    @classmethod
    def of(cls, raw: Tensor, anchors: Tensor, stride: int, scale_xy: float = 1.0, squared: bool = False) -> AnchorLevel:
        """raw: [N, A, H, W, 5 + C], in the order x, y, w, h, objectness, classes."""
        # One split: slices would each have a gradient as large as raw, nearly all of it zeros.
        codes, objectness, classes = raw.split((4, 1, raw.shape[4] - 5), dim=4)
        return cls(codes, objectness[..., 0], classes, anchors.to(raw.device), stride, scale_xy, squared)

    @property
    def dtype(self) -> torch.dtype:
        """Of boxes and losses: float32, float64 for float64."""
        return _check.acc_dtype(self.codes)

    @property
    def size(self) -> tuple[int, int]:
        """Height, width in cells."""
        return self.objectness.shape[2], self.objectness.shape[3]

    def boxes_of(self, cells: Cells) -> Tensor:
        """[P, 4]: x1, y1, x2, y2 in pixels."""
        codes = self.codes[cells.place].to(self.dtype)
        cell = torch.stack((cells.column, cells.row), -1).to(codes.dtype)
        return self._decode(codes, cell, self.anchors[cells.anchor].to(codes.dtype))

    def boxes(self) -> Tensor:
        """[N, A, H, W, 4]: x1, y1, x2, y2 in pixels of all predictions."""
        codes = self.codes.to(self.dtype)
        return self._decode(codes, positions(codes), self.anchors[:, None, None].to(codes.dtype))

    def _decode(self, codes: Tensor, cell: Tensor, anchors: Tensor) -> Tensor:
        centre = (codes[..., :2].sigmoid() * self.scale_xy - (self.scale_xy - 1) / 2 + cell) * self.stride
        size = codes[..., 2:]
        half = anchors * ((2 * size.sigmoid()).square() if self.squared else size.exp()) / 2
        return torch.cat((centre - half, centre + half), -1)
