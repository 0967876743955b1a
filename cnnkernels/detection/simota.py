"""SimOTA: Ge, Liu, Wang, Li, Sun 2021, "YOLOX: Exceeding YOLO Series in 2021", arXiv:2107.08430, section 2.

An object's predictions are the k cheapest, where k follows from how well the predictions fit already:

    cost(object, prediction) = BCE(sqrt(class score * objectness), one-hot class) - 3 log IoU  (+ outside, off the centre)
    k(object)                = the sum of its 10 largest IoUs, rounded down, at least 1

Only candidates compete: predictions of cells near the centre of an object of the image.  A prediction that several
objects chose goes to the object for which it is cheapest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cnnkernels import _boxes
from cnnkernels.detection.anchor_free import AnchorFree
from cnnkernels.detection.assignment import Matches
from cnnkernels.detection.padded_targets import PaddedTargets


@dataclass(frozen=True)
class SimOTA:
    """Call it with predictions and targets; returns the matches, without gradient.

    The defaults are those of the authors' repository; their release 0.3.0 is ``SimOTA(2.5, boxes_too=True, outside=1e5)``.
    """

    radius: float = 1.5
    """How far from an object's centre the centre of a cell may be, in x and in y, in strides."""
    boxes_too: bool = False
    """Cells with their centre inside an object's box are candidates as well; off the centre or outside the box is "outside"."""
    outside: float = 1e6
    """Added to the cost of candidates that are another object's."""
    overlap_weight: float = 3.0
    most: int = 10
    """How many IoUs are summed, hence how many predictions an object gets at most."""

    @torch.no_grad()
    def __call__(self, predictions: AnchorFree, targets: PaddedTargets) -> Matches:
        usable, own = self._candidates(predictions, targets)
        slots, present = _compacted(usable)  # [N, M]: from here on candidates only
        if not slots.numel() or not targets.labels.numel():
            return Matches.none(predictions.codes)
        images = torch.arange(len(slots), device=slots.device)[:, None].expand_as(slots)
        boxes = predictions.boxes_of(images, slots)
        allowed = present[:, None] & targets.valid[:, :, None]  # [N, K, M]
        overlap = _boxes.overlap(targets.boxes[:, :, None], boxes[:, None], "iou")
        cost = _class_cost(predictions, slots, targets.labels) - self.overlap_weight * torch.log(overlap + 1e-8)
        near = own.gather(2, slots[:, None].expand(-1, own.shape[1], -1))
        cost = (cost + self.outside * ~near).masked_fill(~allowed, torch.inf)
        overlap = overlap.masked_fill(~allowed, 0)
        return self._cheapest(cost, overlap, slots)

    def _candidates(self, predictions: AnchorFree, targets: PaddedTargets) -> tuple[Tensor, Tensor]:
        """[N, A]: candidates of any object; [N, K, A]: cells at the object's centre (and inside its box)."""
        valid = targets.valid[:, :, None]
        centres = predictions.centres
        distance = (centres - targets.centres[:, :, None]).abs_()  # [N, K, A, 2]
        near = (distance < self.radius * predictions.strides).all(-1) & valid
        if not self.boxes_too:
            return near.any(1), near
        inside = (distance < targets.sizes[:, :, None] / 2).all(-1) & valid
        return (near | inside).any(1), near & inside

    def _cheapest(self, cost: Tensor, overlap: Tensor, slots: Tensor) -> Matches:
        most = min(self.most, cost.shape[2])
        k = overlap.topk(most, dim=2).values.sum(2).int().clamp(min=1)
        values, order = cost.topk(most, dim=2, largest=False)
        ranks = torch.arange(most, device=cost.device)
        chosen = torch.zeros_like(cost, dtype=torch.uint8)
        chosen.scatter_(2, order, ((ranks < k[:, :, None]) & values.isfinite()).byte())
        wanted = chosen.sum(1)  # [N, M]: by how many objects
        target = torch.where(wanted > 1, cost.argmin(1), chosen.argmax(1))
        image, slot = wanted.nonzero(as_tuple=True)
        target = target[image, slot]
        return Matches(image, slots[image, slot], target, overlap[image, target, slot])


def _compacted(usable: Tensor) -> tuple[Tensor, Tensor]:
    """Of a mask [N, A]: the places of its true values [N, M], M as many as the fullest row has, and which of them are some."""
    place = usable.cumsum(1)
    image, candidate = usable.nonzero(as_tuple=True)
    counts = place[:, -1:]
    slots = torch.zeros(len(usable), int(counts.max()), dtype=torch.int64, device=usable.device)
    slots[image, place[image, candidate] - 1] = candidate
    return slots, torch.arange(slots.shape[1], device=usable.device) < counts


def _class_cost(predictions: AnchorFree, slots: Tensor, labels: Tensor) -> Tensor:
    """[N, K, M]: binary cross-entropy over all classes of the root of the scores with the object's one-hot class.

    sum_c -log(1 - p_c), but -log p_c for the object's class: O(C + K) numbers for a candidate, not O(C K).
    """
    index = slots[:, None].expand(-1, predictions.classes.shape[1], -1)
    logits = predictions.classes.gather(2, index)
    objectness = predictions.objectness.gather(1, slots)
    p = (logits.sigmoid() * objectness.sigmoid()[:, None]).sqrt()  # [N, C, M]
    absent, here = -torch.log(1 - p).clamp(min=-100), -torch.log(p).clamp(min=-100)  # bounded as torch's BCE is
    own = (here - absent).gather(1, labels[:, :, None].expand(-1, -1, slots.shape[1]))
    return absent.sum(1)[:, None] + own
