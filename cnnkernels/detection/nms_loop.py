"""``nms_padded`` as a loop of tensors: for what knows none of this package's kernels, ONNX above all.

One step per kept box, of all images at once: the box with the highest score that is left is kept, and what it overlaps
goes.  The loop ends when no image has a box left, or all have ``max_out``: O(N) memory, and after a few steps where a
picture holds a few objects.  The overlaps are those of ``cnnkernels._boxes``, in the same order of roundings, so the same
boxes are kept.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cnnkernels import _boxes, _check


def nms_loop(
    boxes: Tensor, scores: Tensor, threshold: float, kind: str, beta: float, class_ids: Tensor | None, max_out: int
) -> tuple[Tensor, Tensor]:
    """Arguments and results of ``cnnkernels.ops.nms_padded``; nothing is checked.  N, the number of boxes, is not symbolic."""
    acc = _check.acc_dtype(boxes)
    threshold = _boxes.rounded_threshold(threshold, acc)
    boxes, scores = boxes.to(acc), scores.to(acc)
    indices = torch.full((boxes.shape[0], max_out), -1, dtype=torch.int64, device=boxes.device)
    if not boxes.shape[1]:
        return indices, indices.new_zeros(boxes.shape[0])
    place = torch.arange(max_out, device=boxes.device)
    box = torch.arange(boxes.shape[1], device=boxes.device)

    def goes_on(step: Tensor, left: Tensor, indices: Tensor) -> Tensor:
        return left.any() & (step < max_out)

    def keep_one(step: Tensor, left: Tensor, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        highest = torch.where(left, scores, -math.inf).amax(1, keepdim=True)
        first = (left & (scores == highest)).int().argmax(1, keepdim=True)  # [B, 1]; of equal scores the first
        kept = boxes.gather(1, first[..., None].expand(-1, -1, 4))
        removed = _boxes.overlap(kept, boxes, kind, beta) > threshold
        if class_ids is not None:
            removed = removed & (class_ids == class_ids.gather(1, first))
        indices = torch.where((place == step) & left.any(1, keepdim=True), first, indices)
        return step + 1, left & ~removed & (box != first), indices

    step = torch.zeros((), dtype=torch.int64, device=boxes.device)
    left = boxes.isfinite().all(2) & ~scores.isnan()
    _, _, indices = torch.while_loop(goes_on, keep_one, (step, left, indices))
    return indices, (indices >= 0).sum(1)
