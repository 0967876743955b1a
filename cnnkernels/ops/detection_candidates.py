"""What of a detector's predictions goes into NMS: boxes with a class and a score above a threshold, in one pass.

A prediction is a row (cx, cy, w, h, objectness, class scores), objectness and class scores from 0 to 1.  With
``multi_label=False`` a row is one candidate, of its highest class (the first of equals):

    score = objectness * max(class scores),    a candidate if objectness > threshold and score > threshold

With ``multi_label=True`` every class whose objectness * class score passes is a candidate of its own.  Rows with a NaN
in what is compared are none.  Of more than ``max_candidates`` the highest scores stay, of equal ones the first.

Detectors predict 8,400 to 25,200 rows of 85 numbers, nearly all of them background: reading the objectness first leaves
95 % of the memory alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cnnkernels import _boxes, _check
from cnnkernels._op import Op

NAME = "detection_candidates"


def _check_predictions(predictions: Tensor, threshold: float, max_candidates: int, multi_label: bool) -> None:
    _check.tensor(NAME, "predictions", predictions)
    if predictions.dim() != 3 or predictions.shape[2] < 6:
        _check.fail(NAME, "predictions must be [N, A, 5 + classes] with one class or more", _check.shape(predictions))
    if not isinstance(threshold, (int, float)):
        raise TypeError(f"{NAME}: score_threshold must be a number, got {type(threshold).__name__}")
    if not (threshold >= 0 and math.isfinite(threshold)):
        _check.fail(NAME, "score_threshold must be a number from 0 up", threshold)
    if not isinstance(max_candidates, (int, torch.SymInt)):
        raise TypeError(f"{NAME}: max_candidates must be an int, got {type(max_candidates).__name__}")
    if max_candidates < 0:
        _check.fail(NAME, "max_candidates must not be negative", max_candidates)


def _reference(
    predictions: Tensor, threshold: float, max_candidates: int, multi_label: bool
) -> tuple[Tensor, Tensor, Tensor]:
    p = predictions.to(_check.acc_dtype(predictions))
    threshold = _boxes.rounded_threshold(threshold, p.dtype)
    centre, size, objectness, classes = p[..., :2], p[..., 2:4], p[..., 4:5], p[..., 5:]
    boxes = torch.cat((centre - size / 2, centre + size / 2), -1)
    if multi_label:
        scores = (objectness * classes).flatten(1)
        labels = torch.arange(classes.shape[2], device=p.device).expand_as(classes).flatten(1)
    else:
        best, labels = classes.max(-1)
        scores = objectness[..., 0] * best
    per_row = classes.shape[2] if multi_label else 1
    passes = (scores > threshold) & (objectness > threshold)[..., 0].repeat_interleave(per_row, 1)
    n = min(scores.shape[1], max_candidates)
    order = torch.where(passes, scores, -1.0).argsort(dim=1, descending=True, stable=True)[:, :n]
    # Back in the order of the rows, what did not pass at the end.
    order = torch.where(passes.gather(1, order), order, scores.shape[1]).sort(1).values
    valid = order < scores.shape[1]
    order = order.clamp(max=max(scores.shape[1] - 1, 0))
    boxes = boxes.gather(1, (order // per_row)[..., None].expand(-1, -1, 4))
    boxes = torch.where(valid[..., None], boxes, 0.0)
    scores = torch.where(valid, scores.gather(1, order), -1.0)
    labels = torch.where(valid, labels.gather(1, order), -1)
    padding = max_candidates - n
    if padding:
        boxes = torch.nn.functional.pad(boxes, (0, 0, 0, padding))
        scores = torch.nn.functional.pad(scores, (0, padding), value=-1.0)
        labels = torch.nn.functional.pad(labels, (0, padding), value=-1)
    return boxes, scores, labels


def _fake(
    predictions: Tensor, threshold: float, max_candidates: int, multi_label: bool
) -> tuple[Tensor, Tensor, Tensor]:
    shape, acc = (predictions.shape[0], max_candidates), _check.acc_dtype(predictions)
    return (
        predictions.new_empty(*shape, 4, dtype=acc),
        predictions.new_empty(shape, dtype=acc),
        predictions.new_empty(shape, dtype=torch.int64),
    )


def _native(
    ops: Any, predictions: Tensor, threshold: float, max_candidates: int, multi_label: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return ops.detection_candidates(predictions.contiguous(), threshold, max_candidates, multi_label)


DETECTION_CANDIDATES = Op(
    NAME,
    "(Tensor predictions, float score_threshold, SymInt max_candidates, bool multi_label) -> (Tensor, Tensor, Tensor)",
    check=_check_predictions,
    reference=_reference,
    fake=_fake,
    native=_native,
    native_ops=(NAME,),
    differentiable=False,
    autocast=torch.float32,
)


def detection_candidates(
    predictions: Tensor, score_threshold: float, *, max_candidates: int, multi_label: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The candidates of every image in the order of their rows, padded to fixed shapes: what ``nms_padded`` takes.

    predictions: [N, A, 5 + classes]: cx, cy, w, h in pixels, objectness, class scores; float32, float64, or half types,
        which are computed in float32.
    score_threshold: a candidate's score is strictly above it; finite, from 0 up.
    max_candidates: most candidates of an image; the highest scores stay.
    multi_label: a candidate for every class that passes, not for the highest alone.

    Returns (boxes [N, max_candidates, 4] as x1, y1, x2, y2, zeros where there is none; scores [N, max_candidates], -1
    there; class ids [N, max_candidates] int64, -1 there).  Not differentiable.  Under autocast: float32.
    Raises ValueError for shapes and numbers out of range, TypeError for dtypes.
    """
    return DETECTION_CANDIDATES(predictions, score_threshold, max_candidates, multi_label)
