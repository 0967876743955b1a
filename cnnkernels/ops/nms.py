"""Greedy non-maximum suppression with IoU, GIoU, DIoU or CIoU, within classes and images, on the device alone.

Boxes are taken by falling score.  A box is kept, and every later box of its class and image whose overlap with it is
above the threshold is removed:

    keep i   <=>   no kept j before i with the same class and image has overlap(j, i) > threshold

The measures are in ``cnnkernels._boxes``.  All backends take the same decisions, bit for bit: half boxes are computed in
float32, the sequence of roundings is part of the definition, and ``overlap > threshold`` compares with the threshold as
given (rounded down to the arithmetic's dtype, which changes no decision).

What is unusual about a box:
    a coordinate that is NaN or infinite, or a NaN score      never kept, removes nothing (a way to pad a batch)
    a score of +infinity / -infinity                          the highest / the lowest score there is
    x2 < x1 or y2 < y1                                        width or height 0
    an empty union (both boxes without area)                  IoU 0
    equal scores                                              the box with the lower index goes first
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cnnkernels import _boxes, _check, _layout
from cnnkernels._op import Op

IDS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


# ---- checks -------------------------------------------------------------------------------------------------------------


def _check_common(op: str, boxes: Tensor, scores: Tensor, threshold: float, kind: str, beta: float, batch: int) -> None:
    wanted = "[B, N, 4]" if batch else "[N, 4]"
    for name, t in (("boxes", boxes), ("scores", scores)):
        _check.tensor(op, name, t)
    if boxes.dim() != 2 + batch or boxes.shape[-1] != 4:
        _check.fail(op, f"boxes must be {wanted}", _check.shape(boxes))
    if scores.shape != boxes.shape[:-1]:
        _check.fail(op, f"scores must be {_check.shape(boxes)[:-1]}, one per box", _check.shape(scores))
    _check.like(op, "scores", scores, boxes, "boxes")
    if not isinstance(threshold, (int, float)):
        raise TypeError(f"{op}: iou_threshold must be a number, got {type(threshold).__name__}")
    if math.isnan(threshold):
        _check.fail(op, "iou_threshold must be a number", threshold)
    _boxes.check_kind(op, kind, beta)


def _check_ids(op: str, name: str, ids: Tensor | None, scores: Tensor) -> None:
    if ids is None:
        return
    if not isinstance(ids, Tensor) or ids.dtype not in IDS:
        got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"{op}: {name} must be a tensor of integers, got {got}")
    if ids.shape != scores.shape:
        _check.fail(op, f"{name} must be {_check.shape(scores)}, one per box", _check.shape(ids))
    if ids.device != scores.device:
        _check.fail(op, f"{name} must be on boxes' device {scores.device}", ids.device)


def _check_nms(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    kind: str,
    beta: float,
    class_ids: Tensor | None,
    batch_ids: Tensor | None,
) -> None:
    _check_common("nms", boxes, scores, threshold, kind, beta, 0)
    _check_ids("nms", "class_ids", class_ids, scores)
    _check_ids("nms", "batch_ids", batch_ids, scores)


def _check_padded(
    boxes: Tensor, scores: Tensor, threshold: float, kind: str, beta: float, class_ids: Tensor | None, max_out: int
) -> None:
    _check_common("nms_padded", boxes, scores, threshold, kind, beta, 1)
    _check_ids("nms_padded", "class_ids", class_ids, scores)
    if not isinstance(max_out, (int, torch.SymInt)):
        raise TypeError(f"nms_padded: max_out must be an int, got {type(max_out).__name__}")
    if max_out < 0:
        _check.fail("nms_padded", "max_out must not be negative", max_out)


# ---- definition ---------------------------------------------------------------------------------------------------------


def _greedy(boxes: Tensor, scores: Tensor, ids: list[Tensor], threshold: float, kind: str, beta: float) -> Tensor:
    """Kept indices of one set of boxes by falling score; O(N) memory, one step per kept box."""
    boxes = boxes.to(_check.acc_dtype(boxes))
    threshold = _boxes.rounded_threshold(threshold, boxes.dtype)
    order = scores.argsort(descending=True, stable=True)
    order = order[(boxes.isfinite().all(1) & ~scores.isnan())[order]]
    boxes, ids = boxes[order], [t[order] for t in ids]
    kept, left = [], torch.arange(len(order), device=boxes.device)  # positions that nothing has removed yet
    while len(left):
        first, left = left[0], left[1:]
        kept.append(first)
        removed = _boxes.overlap(boxes[first], boxes[left], kind, beta) > threshold
        for t in ids:
            removed &= t[left] == t[first]
        left = left[~removed]
    return order[torch.stack(kept)] if kept else order[:0]


def _reference_nms(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    kind: str,
    beta: float,
    class_ids: Tensor | None,
    batch_ids: Tensor | None,
) -> Tensor:
    return _greedy(boxes, scores, [t for t in (class_ids, batch_ids) if t is not None], threshold, kind, beta)


def _reference_padded(
    boxes: Tensor, scores: Tensor, threshold: float, kind: str, beta: float, class_ids: Tensor | None, max_out: int
) -> tuple[Tensor, Tensor]:
    indices = torch.full((len(boxes), max_out), -1, dtype=torch.int64, device=boxes.device)
    count = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    for b in range(len(boxes)):
        ids = [] if class_ids is None else [class_ids[b]]
        kept = _greedy(boxes[b], scores[b], ids, threshold, kind, beta)[:max_out]
        indices[b, : len(kept)] = kept
        count[b] = len(kept)
    return indices, count


# ---- kernels: one routine, padded; the compact form is its batch of one -----------------------------------------------------


def _fake_nms(boxes: Tensor, *_: Any) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


def _fake_padded(boxes: Tensor, scores: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    rows = boxes.shape[0]
    return boxes.new_empty(rows, others[-1], dtype=torch.int64), boxes.new_empty(rows, dtype=torch.int64)


def _numbered(ids: Tensor) -> Tensor:
    """0, 1, 2, ... in place of the different values of ids [N], in their order; nothing leaves the device."""
    values, order = ids.sort(stable=True)
    number = torch.zeros_like(values)
    number[1:] = (values[1:] != values[:-1]).cumsum(0)
    return torch.empty_like(number).scatter_(0, order, number)


def _segments(class_ids: Tensor | None, batch_ids: Tensor | None) -> Tensor | None:
    """One id per box, equal where class and image are both equal."""
    ids = [t.long() for t in (class_ids, batch_ids) if t is not None]
    if len(ids) < 2:
        return ids[0] if ids else None
    return _numbered(ids[0]) + _numbered(ids[1]) * len(ids[0])


def _padded_with(run: Any) -> Any:
    """An implementation of nms_padded by run(boxes, scores, segments, threshold, kind, beta, max_out) on dense tensors."""

    def padded(
        boxes: Tensor, scores: Tensor, threshold: float, kind: str, beta: float, class_ids: Tensor | None, max_out: int
    ) -> tuple[Tensor, Tensor]:
        threshold = _boxes.rounded_threshold(threshold, _check.acc_dtype(boxes))
        segments = None if class_ids is None else class_ids.long().contiguous()
        return run(_layout.dense(boxes), scores.contiguous(), segments, threshold, _boxes.CODES[kind], beta, max_out)

    return padded


def _nms_with(padded: Any) -> Any:
    """An implementation of nms by one of nms_padded: a batch of one, room for all, and the one wait for the count."""

    def nms(
        boxes: Tensor,
        scores: Tensor,
        threshold: float,
        kind: str,
        beta: float,
        class_ids: Tensor | None,
        batch_ids: Tensor | None,
    ) -> Tensor:
        segments = _segments(class_ids, batch_ids)
        segments = None if segments is None else segments[None]
        indices, count = padded(boxes[None], scores[None], threshold, kind, beta, segments, len(boxes))
        return indices[0, : int(count)]

    return nms


def _triton() -> Any:
    from cnnkernels.ops.triton import nms

    return _padded_with(nms.padded)


NMS = Op(
    "nms",
    "(Tensor boxes, Tensor scores, float iou_threshold, str kind, float beta, Tensor? class_ids, Tensor? batch_ids)"
    " -> Tensor",
    check=_check_nms,
    reference=_reference_nms,
    fake=_fake_nms,
    native=lambda ops, *args: _nms_with(_padded_with(ops.nms_padded))(*args),
    native_ops=("nms_padded",),
    triton=lambda: _nms_with(_triton()),
    differentiable=False,
    autocast=torch.float32,
    tags=(torch.Tag.dynamic_output_shape,),
)

NMS_PADDED = Op(
    "nms_padded",
    "(Tensor boxes, Tensor scores, float iou_threshold, str kind, float beta, Tensor? class_ids, SymInt max_out)"
    " -> (Tensor, Tensor)",
    check=_check_padded,
    reference=_reference_padded,
    fake=_fake_padded,
    native=lambda ops, *args: _padded_with(ops.nms_padded)(*args),
    native_ops=("nms_padded",),
    triton=_triton,
    differentiable=False,
    autocast=torch.float32,
)

# ---- public -------------------------------------------------------------------------------------------------------------


def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    *,
    kind: str = "diou",
    beta: float = 1.0,
    class_ids: Tensor | None = None,
    batch_ids: Tensor | None = None,
) -> Tensor:
    """Indices of the boxes that survive greedy NMS, by falling score.

    boxes: [N, 4], (x1, y1, x2, y2); float32, float64, or float16 / bfloat16, which are computed in float32.
    scores: [N], boxes' dtype.
    iou_threshold: a box is removed when its overlap is strictly above it, as in torchvision.  Any number but NaN: above 1
        nothing is removed; giou, diou and ciou fall below 0 for boxes that are apart.
    kind: "iou", "giou", "diou" or "ciou", see the table in ``cnnkernels._boxes``.
    beta: exponent of diou's and ciou's distance term; 1 is the paper's, 0.6 YOLOv4's configuration.
    class_ids, batch_ids: [N], any integers; only boxes that agree in both can remove each other.

    Returns [K] int64.  Its size depends on the data: on a GPU this is the one point at which the host waits.
    Not differentiable.  Under autocast: float32.  NaN, infinities and ties: see the top of this file.
    Raises ValueError for shapes, kind, beta <= 0, a NaN threshold and other devices, TypeError for dtypes.

    Zheng et al. 2019, "Distance-IoU Loss: Faster and Better Learning for Bounding Box Regression", arXiv:1911.08287.
    """
    return NMS(boxes, scores, iou_threshold, kind, beta, class_ids, batch_ids)


def nms_padded(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    *,
    kind: str = "diou",
    beta: float = 1.0,
    class_ids: Tensor | None = None,
    max_out: int,
) -> tuple[Tensor, Tensor]:
    """``nms`` of every image of a batch with fixed output shapes: the host never waits, CUDA graphs can hold it.

    boxes: [B, N, 4], scores: [B, N], class_ids: [B, N] or None; the other arguments as for ``nms``.  Images with fewer
    than N boxes: give the rest a NaN score.
    max_out: the most boxes that are kept per image, the highest scores first; 0 or more.

    Returns (indices [B, max_out] int64, padded with -1; count [B] int64).  Not differentiable.
    Raises as ``nms`` does, and ValueError for max_out < 0.
    """
    return NMS_PADDED(boxes, scores, iou_threshold, kind, beta, class_ids, max_out)


def diou_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """``nms`` with DIoU, in the call shape of ``torchvision.ops.nms``."""
    return NMS(boxes, scores, threshold, "diou", 1.0, None, None)


def batched_diou_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, threshold: float) -> Tensor:
    """``nms`` with DIoU within the groups idxs [N], in the call shape of ``torchvision.ops.batched_nms``."""
    return NMS(boxes, scores, threshold, "diou", 1.0, idxs, None)
