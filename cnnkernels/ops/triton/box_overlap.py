"""Overlaps of boxes for Triton kernels: the formulas of csrc/math/box_overlap.h, operation by operation.

Kernels that use them are launched with enable_fp_fusion=False, so that each operation is rounded on its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cnnkernels import _boxes

IOU, GIOU, DIOU, CIOU = (tl.constexpr(_boxes.CODES[k]) for k in ("iou", "giou", "diou", "ciou"))
ASPECT_SCALE = tl.constexpr(_boxes.ASPECT_SCALE)


@triton.jit
def positive(x):
    return tl.where(x > 0.0, x, 0.0)


@triton.jit
def ratio(a, b):
    return tl.where(b > 0.0, tl.div_rn(a, tl.where(b > 0.0, b, 1.0)), 0.0)


@triton.jit
def lesser(a, b):
    return tl.where(a < b, a, b)


@triton.jit
def greater(a, b):
    return tl.where(a > b, a, b)


@triton.jit
def shared_length(a1, a2, b1, b2):
    return positive(lesser(a2, b2) - greater(a1, b1))


@triton.jit
def spanned_length(a1, a2, b1, b2):
    return positive(greater(a2, b2) - lesser(a1, b1))


@triton.jit
def overlap(ax1, ay1, ax2, ay2, at, bx1, by1, bx2, by2, bt, beta, KIND: tl.constexpr, POWER: tl.constexpr):
    area_a = positive(ax2 - ax1) * positive(ay2 - ay1)
    area_b = positive(bx2 - bx1) * positive(by2 - by1)
    inter = shared_length(ax1, ax2, bx1, bx2) * shared_length(ay1, ay2, by1, by2)
    union = (area_a + area_b) - inter
    result = ratio(inter, union)
    if KIND != IOU:
        iou = result
        cw = spanned_length(ax1, ax2, bx1, bx2)
        ch = spanned_length(ay1, ay2, by1, by2)
        if KIND == GIOU:
            result = iou - ratio(positive(cw * ch - union), cw * ch)
        else:
            dx = (ax1 + ax2) - (bx1 + bx2)
            dy = (ay1 + ay2) - (by1 + by2)
            distance = ratio((dx * dx + dy * dy) * 0.25, cw * cw + ch * ch)
            if POWER:  # in double, rounded once
                d = tl.where(distance > 0.0, distance, 1.0).to(tl.float64)
                distance = tl.where(distance > 0.0, tl.exp(tl.log(d) * beta).to(tl.float32), distance)
            result = iou - distance
            if KIND != DIOU:
                turn = at - bt
                v = turn * turn * ASPECT_SCALE
                result = result - tl.where(v > 0.0, tl.div_rn(v * v, tl.where(v > 0.0, (1.0 - iou) + v, 1.0)), 0.0)
    return result
