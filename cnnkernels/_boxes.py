"""Overlap measures of axis-aligned boxes, in the arithmetic that every backend shares.

====  ============================================  =======================================================
kind  overlap of boxes A and B                       source
====  ============================================  =======================================================
iou   |A n B| / |A u B|
giou  iou - (|C| - |A u B|) / |C|                    Rezatofighi et al. 2019, arXiv:1902.09630
diou  iou - (rho^2 / c^2)^beta                       Zheng et al. 2019, arXiv:1911.08287
ciou  diou - v^2 / (1 - iou + v)                     Zheng et al. 2020, arXiv:2005.03572
====  ============================================  =======================================================

C is the smallest box around both, c its diagonal, rho the distance of the centres and
v = (4 / pi^2) (atan2(w_A, h_A) - atan2(w_B, h_B))^2.  A ratio whose denominator is 0 counts as 0.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

CODES = {"iou": 0, "giou": 1, "diou": 2, "ciou": 3}
"""The numbering of ``ck::Overlap`` in csrc/math/box_overlap.h."""

ASPECT_SCALE = 4 / math.pi**2
"""Of a squared difference of angles, so that v is between 0 and 1."""


def check_kind(op: str, kind: object, beta: object) -> None:
    if not isinstance(kind, str):
        raise TypeError(f"{op}: kind must be a str, got {type(kind).__name__}")
    if kind not in CODES:
        raise ValueError(f"{op}: kind must be one of {', '.join(CODES)}, got {kind!r}")
    if not isinstance(beta, (int, float)) or not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"{op}: beta must be a finite number above 0, got {beta!r}")


@lru_cache(maxsize=256)
def rounded_threshold(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of the arithmetic's dtype that is not above the threshold: x > both, or x > neither."""
    if dtype is torch.float64 or math.isinf(threshold):
        return threshold
    limit = float(np.finfo(np.float32).max)
    rounded = np.float32(min(max(threshold, -limit), limit))
    # float(): numpy would compare a float32 with a Python float in float32, where the two are always equal
    return float(rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-np.inf)))


def _positive(x: Tensor) -> Tensor:
    """max(x, 0), and 0 for NaN (infinity - infinity, after an overflow)."""
    return torch.where(x > 0, x, 0)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b where b > 0, else 0; the gradient there is 0, too."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)


def sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return _positive(boxes[..., 2] - boxes[..., 0]), _positive(boxes[..., 3] - boxes[..., 1])


def angle(boxes: Tensor) -> Tensor:
    """atan(width / height), defined for empty boxes too; in double and rounded once, so that all libraries agree."""
    w, h = sides(boxes)
    return torch.atan2(w.double(), h.double()).to(boxes.dtype)


def overlap(a: Tensor, b: Tensor, kind: str, beta: float = 1.0) -> Tensor:
    """Overlap of the boxes a [..., 4] and b [..., 4] (x1, y1, x2, y2), broadcast against each other.

    Every operation is rounded on its own and they come in the order of csrc/math/box_overlap.h: NMS turns the result into
    a decision, which must not depend on the backend.  float32 or float64.

    Differentiable; as in the papers, v's weight alpha = v / (1 - iou + v) in ciou is a constant then.
    """
    ax1, ay1, ax2, ay2 = a.unbind(-1)
    bx1, by1, bx2, by2 = b.unbind(-1)
    (aw, ah), (bw, bh) = sides(a), sides(b)
    iw = _positive(torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1))
    ih = _positive(torch.minimum(ay2, by2) - torch.maximum(ay1, by1))
    inter = iw * ih
    union = (aw * ah + bw * bh) - inter
    iou = _ratio(inter, union)
    if kind == "iou":
        return iou
    cw = _positive(torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1))
    ch = _positive(torch.maximum(ay2, by2) - torch.minimum(ay1, by1))
    if kind == "giou":
        return iou - _ratio(_positive(cw * ch - union), cw * ch)
    dx, dy = (ax1 + ax2) - (bx1 + bx2), (ay1 + ay2) - (by1 + by2)
    distance = _ratio((dx * dx + dy * dy) * 0.25, cw * cw + ch * ch)
    if beta != 1.0:
        distance = distance.double().pow(beta).to(distance.dtype)
    diou = iou - distance
    if kind == "diou":
        return diou
    turn = angle(a) - angle(b)
    v = turn * turn * ASPECT_SCALE
    held, rest = v.detach(), torch.where(v > 0, (1 - iou) + v, 1).detach()  # alpha = held / rest
    return diou - torch.where(v > 0, v * held / rest, 0)
