"""Anchor boxes of EfficientDet, and boxes as numbers relative to them.

Tan, Pang, Le 2019, arXiv:1911.09070, section 5.1: three octaves of scale times three aspect ratios in every cell, as in
RetinaNet (Lin et al. 2017, arXiv:1708.02002); the code of Ren et al. 2015, arXiv:1506.01497, equation 2, without factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EfficientDetAnchors:
    """Calling it with the sizes of the maps gives the anchors, in the order of the head's outputs."""

    strides: tuple[int, ...]
    """Of the levels, in pixels of the network's input."""
    scale: float = 4.0
    """Side of a level's smallest square anchor, in strides."""
    octaves: int = 3
    """Octave k of a level scales its anchors by 2^(k / octaves)."""
    aspects: tuple[tuple[float, float], ...] = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
    """Factors of width and height: about 1:1, 2:1 and 1:2 at the same area."""

    @property
    def per_cell(self) -> int:
        return self.octaves * len(self.aspects)

    def shapes(self, level: int) -> list[tuple[float, float]]:
        """(width, height) in pixels of every anchor of a cell: octave by octave, in each the aspects in order."""
        sides = [self.scale * self.strides[level] * 2 ** (k / self.octaves) for k in range(self.octaves)]
        return [(side * w, side * h) for side in sides for w, h in self.aspects]

    def __call__(
        self,
        sizes: Sequence[Sequence[int]],
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """sizes: (height, width) of every level's map, one per stride.

        Returns [K, 4]: centre x, centre y, width, height in pixels; level by level, row by row, cell by cell, then the
        cell's anchors.  K = per_cell * sum of height * width.
        """
        if len(sizes) != len(self.strides):
            raise ValueError(f"EfficientDetAnchors: needs the sizes of {len(self.strides)} levels, got {len(sizes)}")
        levels = []
        for level, (height, width) in enumerate(sizes):
            stride = self.strides[level]
            y, x = ((torch.arange(n, device=device, dtype=dtype) + 0.5) * stride for n in (height, width))
            shapes = torch.tensor(self.shapes(level), device=device, dtype=dtype)
            cells = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1)
            whole = (height, width, self.per_cell, 2)
            levels.append(torch.cat((cells[:, :, None].expand(whole), shapes.expand(whole)), dim=-1).view(-1, 4))
        return torch.cat(levels)


def decode_boxes(codes: Tensor, anchors: Tensor) -> Tensor:
    """codes: [..., K, 4] = ty, tx, th, tw; anchors: [K, 4] as ``EfficientDetAnchors`` gives them.

    Returns [..., K, 4]: centre x, centre y, width, height = (tx w_a + x_a, ty h_a + y_a, w_a e^tw, h_a e^th).
    """
    centres, sides = anchors[:, :2], anchors[:, 2:]
    t = codes.flip(-1)  # tw, th, tx, ty
    return torch.cat((t[..., 2:] * sides + centres, t[..., :2].exp() * sides), dim=-1)


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of ``decode_boxes``: boxes [..., K, 4] = centre x, centre y, width, height, sides above 0.

    Returns [..., K, 4] = ty, tx, th, tw.
    """
    centres, sides = anchors[:, :2], anchors[:, 2:]
    t = torch.cat(((boxes[..., 2:] / sides).log(), (boxes[..., :2] - centres) / sides), dim=-1)
    return t.flip(-1)
