"""Multi positives: Ge et al. 2021, "YOLOX", arXiv:2107.08430, section 2.2, with levels as in FCOS (Tian et al. 2019,
arXiv:1904.01355, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cnnkernels import _boxes
from cnnkernels.detection.anchor_free import AnchorFree
from cnnkernels.detection.assignment import Matches
from cnnkernels.detection.padded_targets import PaddedTargets


@dataclass(frozen=True)
class MultiPositives:
    """The cell that holds an object's centre and those around it, 3 x 3 of them, on one level: the first where the distance
    from the centre to the farthest side is at most ``reach`` strides, else the last.  Of several objects that want a cell
    the smallest has it, of equal ones the first.

    Call it with predictions and targets; what is predicted does not matter.
    """

    reach: float = 8.0
    """In strides: 64 pixels at stride 8, 128 at stride 16."""
    around: int = 1
    """Cells on each side of the central one."""

    @torch.no_grad()
    def __call__(self, predictions: AnchorFree, targets: PaddedTargets) -> Matches:
        strides = predictions.strides.unique()
        limits = strides[:-1] * self.reach
        stride = strides[torch.bucketize(targets.sizes.amax(-1) / 2, limits)]  # [N, K]
        of_level = predictions.strides[:, 0] == stride[:, :, None]  # [N, K, A]
        cell = (targets.centres / stride[..., None]).floor()
        close = (predictions.corners - cell[:, :, None]).abs().amax(-1) <= self.around
        wanted = of_level & close & targets.valid[:, :, None]
        area = targets.sizes.prod(-1)[:, :, None].expand(wanted.shape)
        if not targets.labels.shape[1]:
            return Matches.none(predictions.codes)
        smallest, target = torch.where(wanted, area, torch.inf).min(1)
        image, candidate = smallest.isfinite().nonzero(as_tuple=True)
        target = target[image, candidate]
        boxes = predictions.boxes_of(image, candidate)
        return Matches(image, candidate, target, _boxes.overlap(boxes, targets.boxes[image, target], "iou"))
