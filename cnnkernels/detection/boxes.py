"""Boxes in plain PyTorch: forms, areas, and how much every box of one set overlaps every box of another.

Boxes are [..., 4], (x1, y1, x2, y2) where nothing else is said, on any device.  Everything is differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cnnkernels import _boxes, _check


def _check_boxes(function: str, name: str, boxes: Tensor) -> None:
    _check.tensor(function, name, boxes)
    if boxes.dim() == 0 or boxes.shape[-1] != 4:
        _check.fail(function, f"{name} must be [..., 4]", _check.shape(boxes))


def box_iou_matrix(a: Tensor, b: Tensor, kind: str = "iou") -> Tensor:
    """[N, M]: overlap of each of the boxes a [N, 4] with each of b [M, 4], which have one dtype.

    kind: "iou", "giou", "diou" or "ciou", see the table in ``cnnkernels._boxes``; a ratio of nothing to nothing is 0, and
    ciou's weight alpha is a constant to the gradient.  In float32 for half types, else in the boxes' dtype.
    For matched pairs ``cnnkernels.ops.box_iou_loss`` is one pass; this is a dozen or two, over N x M values.
    Raises ValueError for shapes and kind, TypeError for dtypes.
    """
    for name, boxes in (("a", a), ("b", b)):
        _check.tensor("box_iou_matrix", name, boxes)
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            _check.fail("box_iou_matrix", f"{name} must be [N, 4]", _check.shape(boxes))
    _check.like("box_iou_matrix", "b", b, a, "a")
    _boxes.check_kind("box_iou_matrix", kind, 1.0)
    acc = _check.acc_dtype(a)
    return _boxes.overlap(a.to(acc)[:, None], b.to(acc)[None], kind)


def box_area(boxes: Tensor) -> Tensor:
    """[...]: width times height, in squares of the boxes' unit; a side below 0 counts as 0."""
    _check_boxes("box_area", "boxes", boxes)
    width, height = _boxes.sides(boxes)
    return width * height


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(x1, y1, x2, y2) to (centre x, centre y, width, height)."""
    _check_boxes("xyxy_to_cxcywh", "boxes", boxes)
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), -1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(centre x, centre y, width, height) to (x1, y1, x2, y2)."""
    _check_boxes("cxcywh_to_xyxy", "boxes", boxes)
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), -1)


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The part of each box that lies in a picture of size (height, width): x from 0 to width, y from 0 to height.

    A box outside becomes one without area, on the nearest edge.  Raises ValueError for a size below 0.
    """
    _check_boxes("clip_boxes", "boxes", boxes)
    height, width = size
    if height < 0 or width < 0:
        _check.fail("clip_boxes", "size must be (height, width), not below 0", size)
    return torch.stack(
        [c.clamp(0, limit) for c, limit in zip(boxes.unbind(-1), (width, height, width, height), strict=True)], -1
    )
