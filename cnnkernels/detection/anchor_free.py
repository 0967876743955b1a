"""The outputs of an anchor-free head (YOLOX) as a loss sees them: one row of predictions for all levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cnnkernels import _check
from cnnkernels.models.grid import positions


@dataclass(frozen=True)
class AnchorFree:
    """A predictions in each of N images: those of the first level row by row, then those of the next.

    A prediction belongs to a cell of its level, stride pixels wide.  Its code is (x, y, w, h); the box has its centre
    (x, y) cells from the cell's top left corner, and is exp(w) by exp(h) cells large.
    """

    codes: Tensor
    """[N, A, 4]."""
    objectness: Tensor
    """[N, A] logits."""
    classes: Tensor
    """[N, C, A] logits."""
    corners: Tensor
    """[A, 2]: x, y of the cell's top left corner, in cells."""
    strides: Tensor
    """[A, 1]: pixels."""
    size: tuple[int, int]
    """Height, width of the network's input in pixels."""

    @classmethod
    def of(cls, owner: str, raw: Sequence[Tensor], strides: Sequence[int], num_classes: int) -> AnchorFree:
        """raw: logits [N, 5 + num_classes, H, W] for each stride, in the order x, y, w, h, objectness, classes.

        Everything is float32, or float64 if ``raw`` is.
        """
        if len(raw) != len(strides):
            raise ValueError(f"{owner}: raw must have a level for each of the strides {tuple(strides)}, got {len(raw)}")
        for level in raw:
            if level.dim() != 4 or level.shape[1] != 5 + num_classes:
                raise ValueError(f"{owner}: raw must be [N, {5 + num_classes}, H, W], got {list(level.shape)}")
        dtype, device = _check.acc_dtype(raw[0]), raw[0].device
        rows = torch.cat([level.flatten(2).to(dtype) for level in raw], dim=2)  # [N, 5 + C, A]
        corners, sizes = [], []
        for level, stride in zip(raw, strides, strict=True):
            h, w = level.shape[2:]
            corners.append(positions(level.new_empty((h, w, 0), dtype=dtype)).flatten(0, 1))
            sizes.append(torch.full((h * w, 1), stride, dtype=dtype, device=device))
        size = (raw[0].shape[2] * strides[0], raw[0].shape[3] * strides[0])
        # One split: slices would each have a gradient as large as rows, nearly all of it zeros.
        codes, objectness, classes = rows.split((4, 1, num_classes), dim=1)
        return cls(codes.mT, objectness[:, 0], classes, torch.cat(corners), torch.cat(sizes), size)

    @property
    def centres(self) -> Tensor:
        """[A, 2]: x, y of the cells' centres in pixels."""
        return (self.corners + 0.5) * self.strides

    def boxes(self) -> Tensor:
        """[N, A, 4]: x1, y1, x2, y2 in pixels."""
        return self._decoded(self.codes, self.corners, self.strides)

    def boxes_of(self, image: Tensor, candidate: Tensor) -> Tensor:
        """[..., 4]: x1, y1, x2, y2 in pixels of the predictions ``candidate`` [...] of the images ``image`` [...]."""
        return self._decoded(self.codes[image, candidate], self.corners[candidate], self.strides[candidate])

    @staticmethod
    def _decoded(codes: Tensor, corners: Tensor, strides: Tensor) -> Tensor:
        centre = (codes[..., :2] + corners) * strides
        half = codes[..., 2:].exp() * strides / 2
        return torch.cat((centre - half, centre + half), -1)

    def encode(self, boxes: Tensor, candidate: Tensor) -> Tensor:
        """The codes [P, 4] with which the predictions ``candidate`` [P] would be exactly ``boxes`` [P, 4]."""
        stride = self.strides[candidate]
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        # The constant is the repository's: it keeps the logarithm finite.
        size = torch.log((boxes[:, 2:] - boxes[:, :2]) / stride + 1e-8)
        return torch.cat((centre / stride - self.corners[candidate], size), -1)
