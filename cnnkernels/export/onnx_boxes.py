"""The overlaps of ``cnnkernels._boxes`` as ONNX functions of boxes a [..., 4] and b [..., 4], broadcast against each other.

Every operation is rounded on its own and they come in the order of ``_boxes.overlap``, because NMS turns the result into
a decision.  float32 or float64.  ONNX functions take no strings and inline no closures, so there is one for each kind.
"""

from __future__ import annotations

import math
from typing import Any

from cnnkernels import _boxes
from cnnkernels.export._onnxscript import FLOAT, Opset, TensorProto, make_tensor, opset18, script

BOXES = Opset("cnnkernels.boxes", 1)
"""The domain of these functions, until torch.onnx puts their bodies in the place of the calls."""

op = opset18
QUARTER = math.pi / 2
ASPECT_SCALE = make_tensor("scale", TensorProto.DOUBLE, [], [_boxes.ASPECT_SCALE])  # a Python float would be a float32


@script(BOXES, default_opset=opset18)
def positive(x):
    """max(x, 0), and 0 for NaN."""
    return op.Where(x > 0.0, x, 0.0)


@script(BOXES, default_opset=opset18)
def ratio(a, b):
    """a / b where b > 0, else 0."""
    return op.Where(b > 0.0, a / op.Where(b > 0.0, b, 1.0), 0.0)


@script(BOXES, default_opset=opset18)
def corners(boxes):
    x1, y1, x2, y2 = op.Split(boxes, axis=-1, num_outputs=4)
    last = op.Constant(value_ints=[-1])
    return op.Squeeze(x1, last), op.Squeeze(y1, last), op.Squeeze(x2, last), op.Squeeze(y2, last)


@script(BOXES, default_opset=opset18)
def union_and_iou(a, b):
    ax1, ay1, ax2, ay2 = corners(a)
    bx1, by1, bx2, by2 = corners(b)
    inter = positive(op.Min(ax2, bx2) - op.Max(ax1, bx1)) * positive(op.Min(ay2, by2) - op.Max(ay1, by1))
    area_a = positive(ax2 - ax1) * positive(ay2 - ay1)
    area_b = positive(bx2 - bx1) * positive(by2 - by1)
    union = (area_a + area_b) - inter
    return union, ratio(inter, union)


@script(BOXES, default_opset=opset18)
def span(a, b):
    """Sides of the smallest box around both."""
    ax1, ay1, ax2, ay2 = corners(a)
    bx1, by1, bx2, by2 = corners(b)
    return positive(op.Max(ax2, bx2) - op.Min(ax1, bx1)), positive(op.Max(ay2, by2) - op.Min(ay1, by1))


@script(BOXES, default_opset=opset18)
def distance(a, b):
    """(rho / c)^2: of the centres, by the diagonal."""
    ax1, ay1, ax2, ay2 = corners(a)
    bx1, by1, bx2, by2 = corners(b)
    cw, ch = span(a, b)
    dx = (ax1 + ax2) - (bx1 + bx2)
    dy = (ay1 + ay2) - (by1 + by2)
    return ratio((dx * dx + dy * dy) * 0.25, cw * cw + ch * ch)


@script(BOXES, default_opset=opset18)
def power(x, beta):
    """x ** beta in double, rounded once.  beta: a double."""
    return op.CastLike(op.Pow(op.Cast(x, to=11), beta), x)


@script(BOXES, default_opset=opset18)
def arctangent(y, x):
    """atan2 in double, for y and x from 0 up (sides of boxes), rounded once; onnxruntime's only arctangent is of float32.

    That one is off by some 1e-7; with its sine and cosine the rest is a small angle, which to 1e-21 is its tangent.
    """
    slope = op.Atan(op.Cast(op.Cast(y, to=11) / op.Cast(x, to=11), to=1))
    single = op.Where(x > 0.0, slope, op.Cast(QUARTER, to=1))
    about = op.Cast(op.Where(y > 0.0, single, op.Cast(0.0, to=1)), to=11)
    yd = op.Cast(y, to=11)
    xd = op.Cast(x, to=11)
    across = yd * op.Cos(about) - xd * op.Sin(about)
    along = xd * op.Cos(about) + yd * op.Sin(about)
    rest = op.Where(along > 0.0, across / along, across)
    return op.CastLike(about + rest, y)


@script(BOXES, default_opset=opset18)
def angle(boxes):
    x1, y1, x2, y2 = corners(boxes)
    return arctangent(positive(x2 - x1), positive(y2 - y1))


@script(BOXES, default_opset=opset18)
def shape_term(a, b, iou):
    """What ciou takes from diou."""
    turn = angle(a) - angle(b)
    v = turn * turn * op.CastLike(op.Constant(value=ASPECT_SCALE), turn)
    rest = op.Where(v > 0.0, (1.0 - iou) + v, 1.0)
    return op.Where(v > 0.0, v * v / rest, 0.0)


# Their results are of float32 or float64, which the converter has no word for; torch.onnx only counts them.


@script(BOXES, default_opset=opset18)
def overlap_iou(a, b, beta) -> FLOAT[...]:
    _, iou = union_and_iou(a, b)
    return iou


@script(BOXES, default_opset=opset18)
def overlap_giou(a, b, beta) -> FLOAT[...]:
    union, iou = union_and_iou(a, b)
    cw, ch = span(a, b)
    return iou - ratio(positive(cw * ch - union), cw * ch)


@script(BOXES, default_opset=opset18)
def overlap_diou(a, b, beta) -> FLOAT[...]:
    _, iou = union_and_iou(a, b)
    return iou - distance(a, b)


@script(BOXES, default_opset=opset18)
def overlap_diou_beta(a, b, beta) -> FLOAT[...]:
    _, iou = union_and_iou(a, b)
    return iou - power(distance(a, b), beta)


@script(BOXES, default_opset=opset18)
def overlap_ciou(a, b, beta) -> FLOAT[...]:
    _, iou = union_and_iou(a, b)
    return iou - distance(a, b) - shape_term(a, b, iou)


@script(BOXES, default_opset=opset18)
def overlap_ciou_beta(a, b, beta) -> FLOAT[...]:
    _, iou = union_and_iou(a, b)
    return iou - power(distance(a, b), beta) - shape_term(a, b, iou)


OVERLAPS: dict[tuple[str, bool], Any] = {
    ("iou", False): overlap_iou,
    ("giou", False): overlap_giou,
    ("diou", False): overlap_diou,
    ("diou", True): overlap_diou_beta,
    ("ciou", False): overlap_ciou,
    ("ciou", True): overlap_ciou_beta,
}
"""(kind, whether beta is not 1) -> the function; beta, a double, is read only then."""


def variant(kind: str, beta: float) -> tuple[str, bool]:
    """The key in ``OVERLAPS``."""
    return kind, beta != 1.0 and kind in ("diou", "ciou")
