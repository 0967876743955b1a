"""Triton kernels of the IoU losses: a program owns BLOCK pairs of boxes.  The formulas are csrc/math/box_iou_loss.h's.

Launched with enable_fp_fusion=False, as box_overlap.py asks: iou <= 1 holds only where the intersection is rounded.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cnnkernels import _boxes, _check, _layout
from cnnkernels.ops.triton.box_overlap import (
    ASPECT_SCALE,
    CIOU,
    GIOU,
    IOU,
    greater,
    lesser,
    overlap,
    positive,
    ratio,
    shared_length,
    spanned_length,
)

BLOCK = 512  # four boxes per thread at 4 warps


@triton.jit
def _angle(w, h):
    """atan(w / h) for w, h >= 0, and 0 for 0 / 0."""
    lo = lesser(w, h)
    hi = greater(w, h)
    far = lo > hi * 0.5463024898
    q = ratio(tl.where(far, lo - hi, lo), tl.where(far, lo + hi, hi))
    z = q * q
    p = (-0.04641224 * z + 0.0986534) * z - 0.14114709
    p = (p * z + 0.1998943) * z - 0.33333117
    a = tl.where(far, 0.78539816339744831, 0.0) + (p * (z * q) + q)
    return tl.where(w > h, 1.57079632679489662 - a, a)


@triton.jit
def _load(boxes_ptr, i, n):
    x1 = tl.load(boxes_ptr + 4 * i, mask=i < n, other=0.0).to(tl.float32)
    y1 = tl.load(boxes_ptr + 4 * i + 1, mask=i < n, other=0.0).to(tl.float32)
    x2 = tl.load(boxes_ptr + 4 * i + 2, mask=i < n, other=0.0).to(tl.float32)
    y2 = tl.load(boxes_ptr + 4 * i + 3, mask=i < n, other=0.0).to(tl.float32)
    return x1, y1, x2, y2


@triton.jit
def _store(boxes_ptr, x1, y1, x2, y2, i, n):
    element = boxes_ptr.dtype.element_ty
    tl.store(boxes_ptr + 4 * i, x1.to(element), mask=i < n)
    tl.store(boxes_ptr + 4 * i + 1, y1.to(element), mask=i < n)
    tl.store(boxes_ptr + 4 * i + 2, x2.to(element), mask=i < n)
    tl.store(boxes_ptr + 4 * i + 3, y2.to(element), mask=i < n)


@triton.jit
def _one_if_finite(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2):
    a = (0.0 * ax1 + 0.0 * ay1) + (0.0 * ax2 + 0.0 * ay2)
    return 1.0 + (a + ((0.0 * bx1 + 0.0 * by1) + (0.0 * bx2 + 0.0 * by2)))


@triton.jit
def box_iou_loss_kernel(
    pred_ptr, target_ptr, out_ptr, n, scale, KIND: tl.constexpr, REDUCE: tl.constexpr, BLOCK: tl.constexpr
):
    # 8e bytes read a pair; REDUCE: scale * the program's sum written, else the losses
    program = tl.program_id(0).to(tl.int64)
    i = program * BLOCK + tl.arange(0, BLOCK)
    ax1, ay1, ax2, ay2 = _load(pred_ptr, i, n)
    bx1, by1, bx2, by2 = _load(target_ptr, i, n)
    at = ax1
    bt = bx1
    if KIND == CIOU:
        at = _angle(positive(ax2 - ax1), positive(ay2 - ay1))
        bt = _angle(positive(bx2 - bx1), positive(by2 - by1))
    loss = 1.0 - overlap(ax1, ay1, ax2, ay2, at, bx1, by1, bx2, by2, bt, 1.0, KIND, False)
    loss = loss * _one_if_finite(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2)
    if REDUCE:
        tl.store(out_ptr + program, tl.sum(tl.where(i < n, loss, 0.0), axis=0) * scale)
    else:
        tl.store(out_ptr + i, loss, mask=i < n)


@triton.jit
def box_iou_loss_total_kernel(parts_ptr, out_ptr, count, BLOCK: tl.constexpr):
    # one program: the sum of all parts
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(parts_ptr + i, mask=i < count, other=0.0)
    tl.store(out_ptr, tl.sum(total, axis=0))


@triton.jit
def _per(length):
    """1 / length, or 0 where the length (area, squared length) is tiny."""
    return tl.where(length > 1e-30, 1.0 / tl.where(length > 1e-30, length, 1.0), 0.0)


@triton.jit
def _share_of_min(a, b):
    return tl.where(a < b, 1.0, tl.where(b < a, 0.0, 0.5))


@triton.jit
def _ends_gradient(a1, a2, b1, b2, d_shared, d_span, d_a, d_b, d_centre, scale):
    """From derivatives by lengths to derivatives by ends, on one axis."""
    d_shared = tl.where(shared_length(a1, a2, b1, b2) > 0.0, d_shared, 0.0)
    d_span = tl.where(spanned_length(a1, a2, b1, b2) > 0.0, d_span, 0.0)
    d_a = tl.where(a2 > a1, d_a, 0.0)
    d_b = tl.where(b2 > b1, d_b, 0.0)
    apart = d_shared - d_span
    high = _share_of_min(a2, b2) * apart
    low = _share_of_min(b1, a1) * apart
    da1 = scale * ((d_centre - d_a) - (d_span + low))
    da2 = scale * ((d_centre + d_a) + (d_span + high))
    db1 = scale * ((-d_centre - d_b) - (d_shared - low))
    db2 = scale * ((d_b - d_centre) + (d_shared - high))
    return da1, da2, db1, db2


@triton.jit
def box_iou_loss_backward_kernel(
    pred_ptr, target_ptr, grad_ptr, dpred_ptr, dtarget_ptr, n, grad_step, scale,
    KIND: tl.constexpr, TARGET: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # 8e bytes read a pair, 4e written (8e with TARGET)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ax1, ay1, ax2, ay2 = _load(pred_ptr, i, n)
    bx1, by1, bx2, by2 = _load(target_ptr, i, n)
    aw = positive(ax2 - ax1)
    ah = positive(ay2 - ay1)
    bw = positive(bx2 - bx1)
    bh = positive(by2 - by1)
    iw = shared_length(ax1, ax2, bx1, bx2)
    ih = shared_length(ay1, ay2, by1, by2)
    inter = iw * ih
    union = (aw * ah + bw * bh) - inter
    iou = ratio(inter, union)
    d_inter = (1.0 + iou) * _per(union)
    d_area = -iou * _per(union)
    zero = iou * 0.0
    span_x = zero
    span_y = zero
    centre_x = zero
    centre_y = zero
    turn_a = zero
    turn_b = zero
    if KIND != IOU:
        cw = spanned_length(ax1, ax2, bx1, bx2)
        ch = spanned_length(ay1, ay2, by1, by2)
        if KIND == GIOU:
            around = cw * ch
            per_around = tl.where(around > union, _per(around), 0.0)
            d_inter = d_inter - per_around
            d_area = d_area + per_around
            span_x = -union * per_around * per_around * ch
            span_y = -union * per_around * per_around * cw
        else:
            dx = (ax1 + ax2) - (bx1 + bx2)
            dy = (ay1 + ay2) - (by1 + by2)
            per_diagonal = _per(cw * cw + ch * ch)
            d_diagonal = (dx * dx + dy * dy) * 0.5 * per_diagonal * per_diagonal
            span_x = d_diagonal * cw
            span_y = d_diagonal * ch
            centre_x = -0.5 * dx * per_diagonal
            centre_y = -0.5 * dy * per_diagonal
        if KIND == CIOU:
            turn = _angle(aw, ah) - _angle(bw, bh)
            v = turn * turn * ASPECT_SCALE
            alpha = tl.where(v > 0.0, tl.div_rn(v, tl.where(v > 0.0, (1.0 - iou) + v, 1.0)), 0.0)
            d_turn = -2.0 * ASPECT_SCALE * alpha * turn
            turn_a = d_turn * _per(aw * aw + ah * ah)
            turn_b = -d_turn * _per(bw * bw + bh * bh)
    one = _one_if_finite(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2)
    grad = -tl.load(grad_ptr + i * grad_step, mask=i < n, other=0.0) * scale * one
    ax1, ax2, bx1, bx2 = _ends_gradient(
        ax1, ax2, bx1, bx2, d_inter * ih, span_x, (d_area + turn_a) * ah, (d_area + turn_b) * bh, centre_x, grad
    )
    ay1, ay2, by1, by2 = _ends_gradient(
        ay1, ay2, by1, by2, d_inter * iw, span_y, (d_area - turn_a) * aw, (d_area - turn_b) * bw, centre_y, grad
    )
    _store(dpred_ptr, ax1, ay1, ax2, ay2, i, n)
    if TARGET:
        _store(dtarget_ptr, bx1, by1, bx2, by2, i, n)


def _scale(n: int, reduction: str) -> float:
    return 1.0 / n if reduction == "mean" and n else 1.0


def forward(pred: Tensor, target: Tensor, kind: str, reduction: str) -> Tensor:
    pred, target, n = _layout.dense(pred), _layout.dense(target), len(pred)
    reduce, programs = reduction != "none", triton.cdiv(n, BLOCK)
    loss = pred.new_empty(() if reduce else (n,), dtype=_check.acc_dtype(pred))
    if not n:
        return loss.zero_()
    parts = loss.new_empty(programs) if reduce and programs > 1 else loss
    box_iou_loss_kernel[(programs,)](
        pred, target, parts, n, _scale(n, reduction),
        KIND=_boxes.CODES[kind], REDUCE=reduce, BLOCK=BLOCK, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    if parts is not loss:
        box_iou_loss_total_kernel[(1,)](parts, loss, programs, BLOCK=1024, num_warps=4)
    return loss


def backward(
    grad: Tensor, pred: Tensor, target: Tensor, kind: str, reduction: str, towards_target: bool
) -> tuple[Tensor, Tensor]:
    pred, target, n = _layout.dense(pred), _layout.dense(target), len(pred)
    dpred, dtarget = torch.empty_like(pred), pred.new_empty((n if towards_target else 0, 4))
    if n:
        box_iou_loss_backward_kernel[(triton.cdiv(n, BLOCK),)](
            pred, target, grad, dpred, dtarget, n, grad.stride(0) if reduction == "none" else 0, _scale(n, reduction),
            KIND=_boxes.CODES[kind], TARGET=towards_target, BLOCK=BLOCK, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return dpred, dtarget
