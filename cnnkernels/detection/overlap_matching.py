"""Anchors as objects by their overlap: RetinaNet (Lin et al. 2017, arXiv:1708.02002, section 4.1), EfficientDet."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cnnkernels import _boxes
from cnnkernels.detection.assignment import Matches
from cnnkernels.detection.padded_targets import PaddedTargets


@dataclass(frozen=True)
class OverlapMatching:
    """An anchor stands for the object with which its IoU is largest, if that is at least ``threshold``; every object's best
    anchor stands for it whatever the IoU.  Of equal IoUs, and of two objects with the same best anchor, the first counts.

    Call it with anchors [A, 4] (x1, y1, x2, y2 in pixels) and targets; ``overlap`` of the matches is the anchor's.
    """

    threshold: float = 0.5

    @torch.no_grad()
    def __call__(self, anchors: Tensor, targets: PaddedTargets) -> Matches:
        # One image at a time: objects x anchors of a whole batch would be gigabytes.
        rows = [self._of_image(anchors, *image) for image in zip(targets.boxes, targets.valid, strict=True)]
        target = torch.stack([t for t, _ in rows])  # [N, A], -1 where there is none
        image, candidate = (target >= 0).nonzero(as_tuple=True)
        overlap = torch.stack([o for _, o in rows])[image, candidate]
        return Matches(image, candidate, target[image, candidate], overlap)

    def _of_image(self, anchors: Tensor, boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """For each anchor: the object, or -1, and the IoU with it."""
        count = len(boxes)
        if not count:
            nothing = anchors.new_zeros(len(anchors))
            return nothing.long() - 1, nothing
        overlap = _boxes.overlap(boxes[:, None], anchors, "iou").masked_fill(~valid[:, None], -1)  # [K, A]
        best, target = overlap.max(0)
        target = torch.where(best >= self.threshold, target, -1)
        owner = torch.where(valid, torch.arange(count, device=boxes.device), count)
        forced = torch.full_like(target, count).scatter_reduce_(0, overlap.argmax(1), owner, "amin")
        target = torch.where(forced < count, forced, target)
        return target, overlap.gather(0, target.clamp(min=0)[None])[0]
