"""The part of a picture that a pose network sees of each person: there and back.

The affine map of Xiao et al. 2018 (arXiv:1804.06208) and Sun et al. 2019 (``get_affine_transform``), which they solve
from three pairs of points, in closed form: of a map of H x W pixels, the point (W / 2, H / 2) lies on the region's centre,
W pixels on its width, and the picture is turned by the rotation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PoseRegions:
    """One region for each of N people.  Sizes are (height, width), of a network's input or of its heat maps alike."""

    centres: Tensor
    """[N, 2]: x, y in pixels of the picture."""
    widths: Tensor
    """[N]: pixels of the picture; 200 times the authors' ``scale[0]``.  The height follows from a map's ratio."""
    rotations: Tensor | None = None
    """[N]: degrees by which the region is turned, from x towards y (clockwise as one sees it); None for none."""

    @classmethod
    def of_boxes(cls, boxes: Tensor, size: tuple[int, int], *, padding: float = 1.25) -> PoseRegions:
        """Around the boxes [N, 4] (x1, y1, x2, y2) of people, widened to the ratio of ``size``, then by the padding.

        A side that is shorter than a pixel, or negative, counts as one pixel.
        """
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise ValueError(f"PoseRegions: boxes must be [N, 4], got {list(boxes.shape)}")
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        width, height = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1).unbind(1)
        return cls(centres, torch.maximum(width, height * (size[1] / size[0])) * padding)

    def to_picture(self, points: Tensor, size: tuple[int, int]) -> Tensor:
        """Points [N, K, 2] of a map of ``size``, in pixels of the picture."""
        scale, middle = self._scale(size, points), self._middle(size, points)
        return self.centres[:, None] + self._turned((points - middle) / scale, 1)

    def from_picture(self, points: Tensor, size: tuple[int, int]) -> Tensor:
        """Points [N, K, 2] of the picture, in pixels of a map of ``size``."""
        scale, middle = self._scale(size, points), self._middle(size, points)
        return self._turned(points - self.centres[:, None], -1) * scale + middle

    def crop(self, picture: Tensor, size: tuple[int, int]) -> Tensor:
        """The regions [N, C, *size] of a picture [C, H, W], floating-point, bilinear; black beyond it."""
        if picture.dim() != 3 or 0 in picture.shape:
            raise ValueError(f"PoseRegions: picture must be [C, H, W] with pixels, got {list(picture.shape)}")
        rows, columns = (torch.arange(n, dtype=self.centres.dtype, device=self.centres.device) for n in size)
        grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), 2).view(1, -1, 2)
        points = self.to_picture(grid.expand(len(self.centres), -1, -1), size)
        last = points.new_tensor((picture.shape[2], picture.shape[1])).sub(1).clamp(min=1)
        places = (2 * points / last - 1).view(-1, *size, 2).to(picture.dtype)
        return F.grid_sample(picture.expand(len(places), -1, -1, -1), places, align_corners=True)

    def _scale(self, size: tuple[int, int], like: Tensor) -> Tensor:
        return (size[1] / self.widths).to(like.dtype)[:, None, None]

    @staticmethod
    def _middle(size: tuple[int, int], like: Tensor) -> Tensor:
        return like.new_tensor((size[1] / 2, size[0] / 2))

    def _turned(self, vectors: Tensor, direction: int) -> Tensor:
        if self.rotations is None:
            return vectors
        angle = (direction * math.pi / 180) * self.rotations[:, None].to(vectors.dtype)
        x, y = vectors.unbind(2)
        return torch.stack((angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y), 2)
