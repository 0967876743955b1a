"""Which anchors of which cells stand for an object: two answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cnnkernels import _boxes
from cnnkernels.detection.anchor_level import AnchorLevel, Cells
from cnnkernels.detection.padded_targets import PaddedTargets


@dataclass(frozen=True)
class LevelAssignment:
    cells: Cells
    ignored: Tensor | None = None
    """[N, A, H, W] bool: predictions that are not taught to be background, even if they stand for nothing."""


@dataclass(frozen=True)
class SideRatio:
    """YOLOv5: every anchor, on every level, whose sides fit the object's:

        max(w / w_a, w_a / w, h / h_a, h_a / h) < limit

    in the cell that holds the object's centre and in the two neighbours that are nearest to it, one in x and one in y
    (none on the side where the centre is in the middle, or where the picture ends): up to three positives per anchor.
    A prediction may stand for several objects.
    """

    limit: float = 4.0
    neighbours: bool = True

    @torch.no_grad()
    def __call__(self, levels: Sequence[AnchorLevel], targets: PaddedTargets) -> list[LevelAssignment]:
        return [LevelAssignment(self._cells(level, targets)) for level in levels]

    def _cells(self, level: AnchorLevel, targets: PaddedTargets) -> Cells:
        ratio = targets.sizes[:, :, None] / level.anchors  # [N, K, A, 2]
        fits = torch.maximum(ratio, 1 / ratio).amax(-1) < self.limit
        image, target, anchor = (fits & targets.valid[:, :, None]).nonzero(as_tuple=True)
        centre = targets.centres[image, target] / level.stride  # [P, 2], in cells
        if not self.neighbours:
            return _in_cell(level, centre, image, anchor, target)
        height, width = level.size
        rest = centre.new_tensor([width, height]) - centre
        before = (centre % 1 < 0.5) & (centre > 1)
        after = (rest % 1 < 0.5) & (rest > 1)
        use = torch.stack((torch.ones_like(image, dtype=torch.bool), *before.unbind(1), *after.unbind(1)))  # [5, P]
        half_steps = centre.new_tensor([[0, 0], [-0.5, 0], [0, -0.5], [0.5, 0], [0, 0.5]])
        side, pick = use.nonzero(as_tuple=True)
        return _in_cell(level, centre[pick] + half_steps[side], image[pick], anchor[pick], target[pick])


@dataclass(frozen=True)
class BestAnchor:
    """YOLOv3 and YOLOv4: of the anchors of all levels the one with the largest IoU with the object, both with the same
    centre; in the cell that holds the object's centre.  Of equal anchors the first.

    Predictions whose box has an IoU above ``ignore`` with any object are not taught to be background (0.5 in the paper,
    0.7 in the authors' configuration files).  also: anchors with an IoU above it stand for the object as well (1: none).
    """

    ignore: float = 0.7
    also: float = 1.0

    @torch.no_grad()
    def __call__(self, levels: Sequence[AnchorLevel], targets: PaddedTargets) -> list[LevelAssignment]:
        overlap = _overlap_of_sizes(
            targets.sizes, torch.cat([level.anchors for level in levels])
        )  # [N, K, all anchors]
        use = overlap > self.also
        use.scatter_(2, overlap.argmax(2, keepdim=True), True)
        use &= targets.valid[:, :, None]
        found = []
        for level, mine in zip(levels, use.split([len(level.anchors) for level in levels], dim=2), strict=True):
            image, target, anchor = mine.nonzero(as_tuple=True)
            centre = targets.centres[image, target] / level.stride
            cells = _in_cell(level, centre, image, anchor, target)
            found.append(LevelAssignment(cells, self._ignored(level, targets)))
        return found

    def _ignored(self, level: AnchorLevel, targets: PaddedTargets) -> Tensor:
        boxes = level.boxes()
        if not targets.labels.shape[1]:
            return boxes.new_zeros(boxes.shape[:-1], dtype=torch.bool)
        overlap = _boxes.overlap(boxes.flatten(1, 3)[:, :, None], targets.boxes[:, None], "iou")  # [N, A H W, K]
        return ((overlap > self.ignore) & targets.valid[:, None]).any(2).view(boxes.shape[:-1])


def _in_cell(level: AnchorLevel, centre: Tensor, image: Tensor, anchor: Tensor, target: Tensor) -> Cells:
    """``centre`` [P, 2] in cells; outside the picture it belongs to the nearest cell."""
    height, width = level.size
    column, row = centre.floor().long().unbind(1)
    return Cells(image, anchor, row.clamp(0, height - 1), column.clamp(0, width - 1), target)


def _overlap_of_sizes(sizes: Tensor, anchors: Tensor) -> Tensor:
    """IoU [N, K, A] of boxes of the sizes [N, K, 2] and [A, 2] with one centre."""
    shared = torch.minimum(sizes[:, :, None], anchors).prod(-1)
    return shared / (sizes.prod(-1)[:, :, None] + anchors.prod(-1) - shared)
