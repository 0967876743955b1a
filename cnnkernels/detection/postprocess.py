"""From a detector's predictions to the boxes that it found: candidates above a score, then NMS within classes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cnnkernels import _boxes, _ext, ops
from cnnkernels.detection.types import Detections
from cnnkernels.nn import _unit

_AVAILABLE = _ext.has_kernel("postprocess", "cpu")


class Found(NamedTuple):
    """The boxes of N images, by falling score, in tensors of fixed shapes; image i has ``counts[i]`` of them."""

    boxes: Tensor
    """[N, max_detections, 4]: x1, y1, x2, y2 in pixels of the network's input; zeros where there is none."""
    scores: Tensor
    """[N, max_detections]; 0 where there is none."""
    labels: Tensor
    """[N, max_detections] int64: class ids; -1 where there is none."""
    counts: Tensor
    """[N] int64."""

    def to_list(self) -> list[Detections]:
        """One ``Detections`` an image, still in pixels of the input.  Waits for the device once."""
        counts = self.counts.tolist()
        return [
            Detections(b[:n].float(), s[:n].float(), c[:n])
            for b, s, c, n in zip(self.boxes, self.scores, self.labels, counts, strict=True)
        ]


def postprocess(
    predictions: Tensor,
    *,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.45,
    kind: str = "diou",
    beta: float = 1.0,
    max_detections: int = 300,
    max_candidates: int = 2048,
    multi_label: bool = False,
    class_agnostic: bool = False,
) -> Found:
    """The boxes of a batch of images; the host never waits, shapes do not depend on the data, CUDA graphs can hold it.

    predictions: [N, A, 5 + classes] of a detector in evaluation: cx, cy, w, h, objectness, class scores.
    score_threshold: objectness * class score of a box is above it.
    iou_threshold, kind, beta: of ``cnnkernels.ops.nms``.  kind "diou" keeps neighbours whose centres lie apart.
    max_detections: most boxes of an image.
    max_candidates: most of an image that go into NMS, the highest scores first.
    multi_label: every class of a prediction that passes is a box, as evaluations of mAP have it; else the highest.
    class_agnostic: boxes of different classes suppress each other, too.

    Raises ValueError and TypeError as ``detection_candidates`` and ``nms_padded`` do.
    On float32 CPU tensors, where nobody looks on, it is one call with the same results (csrc/torch/postprocess.cpp).
    """
    if predictions.dim() == 3:
        most = predictions.shape[1] * (predictions.shape[2] - 5 if multi_label else 1)
        max_candidates = min(max_candidates, most) if isinstance(max_candidates, int) else max_candidates
    found = _in_one_call(
        predictions,
        score_threshold,
        max_candidates,
        multi_label,
        iou_threshold,
        kind,
        beta,
        class_agnostic,
        max_detections,
    )
    if found is not None:
        return found
    boxes, scores, labels = ops.detection_candidates(
        predictions, score_threshold, max_candidates=max_candidates, multi_label=multi_label
    )
    indices, count = ops.nms_padded(
        boxes,
        scores.masked_fill(labels < 0, math.nan),
        iou_threshold,
        kind=kind,
        beta=beta,
        class_ids=None if class_agnostic else labels,
        max_out=max_detections,
    )
    if not boxes.shape[1]:  # nothing to gather from
        none = boxes.new_zeros(len(boxes), max_detections)
        return Found(none[..., None].repeat(1, 1, 4), none, torch.full_like(none, -1, dtype=torch.int64), count)
    kept, empty = indices.clamp(min=0), indices < 0
    return Found(
        boxes.gather(1, kept[..., None].expand(-1, -1, 4)).masked_fill(empty[..., None], 0.0),
        scores.gather(1, kept).masked_fill(empty, 0.0),
        labels.gather(1, kept).masked_fill(empty, -1),
        count,
    )


def _in_one_call(
    predictions: Tensor,
    score_threshold: float,
    max_candidates: int,
    multi_label: bool,
    iou_threshold: float,
    kind: str,
    beta: float,
    class_agnostic: bool,
    max_detections: int,
) -> Found | None:
    """None for what it does not take: the ops compute that, or say what is wrong."""
    if not _AVAILABLE or not _unit.plain_tensor(predictions) or kind not in _boxes.CODES:
        return None
    try:
        threshold = _boxes.rounded_threshold(iou_threshold, torch.float32)
        found: tuple[Tensor, ...] = _ext.direct_ops.postprocess(
            predictions,
            score_threshold,
            max_candidates,
            multi_label,
            threshold,
            _boxes.CODES[kind],
            beta,
            class_agnostic,
            max_detections,
        )
    except (RuntimeError, TypeError, ValueError):
        return None
    return Found(*found)
