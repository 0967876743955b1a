"""IoU, GIoU, DIoU and CIoU loss of matched boxes, forward and backward in one pass each.

    loss_i = 1 - overlap(pred_i, target_i)

The overlaps are those of ``cnnkernels._boxes``.  Only the boxes are kept for the backward pass, which computes again what
it needs.  The gradient is that of the formula as PyTorch differentiates it: where two corners tie each has half, and ciou's
weight alpha = v / (1 - iou + v) is a constant (Zheng et al. 2019, arXiv:1911.08287).

What is unusual about a pair (torchvision's losses, which add eps = 1e-7 to denominators, differ where it says so):
    identical boxes                  loss 0 (torchvision: eps / area), gradient 0
    apart                            iou: loss 1, gradient 0; the other kinds pull the boxes together
    x2 <= x1 or y2 <= y1             a width or height of 0, which has no gradient of its own (torchvision: as it is, so
                                     that areas may be negative)
    two boxes without area           IoU 0, so loss 1 (and the penalty of the kind, if they are apart)
    tiny boxes                       no eps: the loss does not depend on the unit.  In a gradient an area or squared length
                                     below 1e-30 counts as 0, so that every gradient is finite
    a coordinate NaN or infinite     NaN, in the loss and in all eight derivatives
    N = 0                            mean and sum are 0
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cnnkernels import _boxes, _check, _layout
from cnnkernels._op import Op

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
"""The numbering of ``ck::Reduction`` in csrc/math/box_iou_loss.h."""

TINY = 1e-30


def _check_arguments(op: str, pred: Tensor, target: Tensor, kind: str, reduction: str) -> None:
    _check.tensor(op, "pred", pred)
    if pred.dim() != 2 or pred.shape[1] != 4:
        _check.fail(op, "pred must be [N, 4] (x1, y1, x2, y2)", _check.shape(pred))
    _check.same_shape(op, "target", target, pred, "the shape of pred,")
    _boxes.check_kind(op, kind, 1.0)
    if not isinstance(reduction, str):
        raise TypeError(f"{op}: reduction must be a str, got {type(reduction).__name__}")
    if reduction not in REDUCTIONS:
        _check.fail(op, f"reduction must be one of {', '.join(REDUCTIONS)}", repr(reduction))


def _triton() -> Any:
    from cnnkernels.ops.triton import box_iou_loss

    return box_iou_loss


def _one_if_finite(pred: Tensor, target: Tensor) -> Tensor:
    """[N, 1]: 1, or NaN where a coordinate is NaN or infinite."""
    return (1 + (0 * pred + 0 * target).sum(1, keepdim=True)).detach()


# ---- backward --------------------------------------------------------------------------------------------------------


def _check_backward(
    grad: Tensor, pred: Tensor, target: Tensor, kind: str, reduction: str, towards_target: bool
) -> None:
    op = "box_iou_loss_backward"
    _check_arguments(op, pred, target, kind, reduction)
    _check.tensor(op, "grad", grad)
    expected = [pred.shape[0]] if reduction == "none" else []
    if _check.shape(grad) != expected:
        _check.fail(op, f"grad must have the loss's shape {expected}", _check.shape(grad))
    _check.like(op, "grad", grad, pred, "pred", (_check.acc_dtype(pred),))


def _per(length: Tensor) -> Tensor:
    """1 / length, or 0 where the length (area, squared length) is tiny."""
    return torch.where(length > TINY, 1 / torch.where(length > TINY, length, 1), 0)


def _overlap_gradient(a: Tensor, b: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """d overlap / da and d overlap / db of the pairs of boxes a, b [N, 4]; the formula of csrc/math/box_iou_loss.h.

    Everything of the two axes is in the columns of [N, 2] tensors; ``other`` is the other axis.
    """

    def product(t: Tensor) -> Tensor:
        return t[:, :1] * t[:, 1:]

    def other(t: Tensor) -> Tensor:
        return t.flip(1)

    (a1, a2), (b1, b2) = a.split(2, 1), b.split(2, 1)
    raw = a2 - a1, b2 - b1, torch.minimum(a2, b2) - torch.maximum(a1, b1), torch.maximum(a2, b2) - torch.minimum(a1, b1)
    side_a, side_b, shared, span = (torch.where(t > 0, t, 0) for t in raw)
    inter = product(shared)
    union = product(side_a) + product(side_b) - inter
    iou = inter * _per(union)
    d_inter, d_area = (1 + iou) * _per(union), -iou * _per(union)
    d_span, d_centre, d_turn = torch.zeros_like(span), torch.zeros_like(span), torch.zeros_like(iou)
    if kind == "giou":
        around = product(span)
        per_around = torch.where(around > union, _per(around), 0)
        d_inter, d_area = d_inter - per_around, d_area + per_around
        d_span = -union * per_around * per_around * other(span)
    elif kind != "iou":
        apart = (a1 + a2) - (b1 + b2)
        per_diagonal = _per((span * span).sum(1, keepdim=True))
        d_span = (apart * apart).sum(1, keepdim=True) * 0.5 * per_diagonal * per_diagonal * span
        d_centre = -0.5 * apart * per_diagonal
        if kind == "ciou":
            turn = (_boxes.angle(a) - _boxes.angle(b))[:, None]
            v = turn * turn * _boxes.ASPECT_SCALE
            alpha = torch.where(v > 0, v / torch.where(v > 0, (1 - iou) + v, 1), 0).detach()
            d_turn = -2 * _boxes.ASPECT_SCALE * alpha * turn

    def of_sides(side: Tensor, d_angle: Tensor) -> Tensor:
        signs = side.new_tensor([1.0, -1.0])  # a wider box has the larger angle, a higher one the smaller
        return (d_area + d_angle * _per((side * side).sum(1, keepdim=True)) * signs) * other(side) * (side > 0)

    def share_of_min(p: Tensor, q: Tensor) -> Tensor:
        return (p < q).to(p.dtype) + 0.5 * (p == q)

    d_shared, d_span = d_inter * other(shared) * (shared > 0), d_span * (span > 0)
    d_a, d_b = of_sides(side_a, d_turn), of_sides(side_b, -d_turn)
    high, low = share_of_min(a2, b2) * (d_shared - d_span), share_of_min(b1, a1) * (d_shared - d_span)
    return (
        torch.cat((d_centre - d_a - d_span - low, d_centre + d_a + d_span + high), 1),
        torch.cat((low - d_centre - d_b - d_shared, d_b + d_shared - high - d_centre), 1),
    )


def _reference_backward(
    grad: Tensor, pred: Tensor, target: Tensor, kind: str, reduction: str, towards_target: bool
) -> tuple[Tensor, Tensor]:
    acc, n = _check.acc_dtype(pred), pred.shape[0]
    a, b = pred.to(acc), target.to(acc)
    da, db = _overlap_gradient(a, b, kind)
    scale = -grad.reshape(-1, 1) * _one_if_finite(a, b) / (max(n, 1) if reduction == "mean" else 1)
    return (da * scale).to(pred.dtype), (db * scale)[: n if towards_target else 0].to(pred.dtype)


def _fake_backward(
    grad: Tensor, pred: Tensor, target: Tensor, kind: str, reduction: str, towards_target: bool
) -> tuple[Tensor, Tensor]:
    return pred.new_empty(pred.shape), pred.new_empty((pred.shape[0] if towards_target else 0, 4))


def _direct_backward(
    ops: Any, grad: Tensor, pred: Tensor, target: Tensor, kind: str, reduction: str, towards_target: bool
) -> tuple[Tensor, Tensor]:
    return ops.box_iou_loss_backward(grad, pred, target, _boxes.CODES[kind], REDUCTIONS[reduction], towards_target)


def _native_backward(
    ops: Any, grad: Tensor, pred: Tensor, target: Tensor, kind: str, reduction: str, towards_target: bool
) -> tuple[Tensor, Tensor]:
    pred, target = _layout.dense(pred), _layout.dense(target)
    return _direct_backward(ops, grad.contiguous(), pred, target, kind, reduction, towards_target)


BOX_IOU_LOSS_BACKWARD = Op(
    "box_iou_loss_backward",
    "(Tensor grad, Tensor pred, Tensor target, str kind, str reduction, bool towards_target)"
    " -> (Tensor dpred, Tensor dtarget)",
    check=_check_backward,
    reference=_reference_backward,
    fake=_fake_backward,
    native=_native_backward,
    direct=_direct_backward,
    native_ops=("box_iou_loss_backward",),
    triton=lambda: _triton().backward,
)

# ---- forward ---------------------------------------------------------------------------------------------------------


def _check_forward(pred: Tensor, target: Tensor, kind: str, reduction: str) -> None:
    _check_arguments("box_iou_loss", pred, target, kind, reduction)


def _reference(pred: Tensor, target: Tensor, kind: str, reduction: str) -> Tensor:
    acc = _check.acc_dtype(pred)
    a, b = pred.to(acc), target.to(acc)
    one = _one_if_finite(a, b)
    loss = (1 - _boxes.overlap(a * one, b * one, kind)) * one[:, 0]
    if reduction == "none":
        return loss
    return loss.sum() / (max(pred.shape[0], 1) if reduction == "mean" else 1)


def _fake(pred: Tensor, target: Tensor, kind: str, reduction: str) -> Tensor:
    return pred.new_empty(pred.shape[:1] if reduction == "none" else (), dtype=_check.acc_dtype(pred))


def _direct(ops: Any, pred: Tensor, target: Tensor, kind: str, reduction: str) -> Tensor:
    return ops.box_iou_loss(pred, target, _boxes.CODES[kind], REDUCTIONS[reduction])


def _native(ops: Any, pred: Tensor, target: Tensor, kind: str, reduction: str) -> Tensor:
    return _direct(ops, _layout.dense(pred), _layout.dense(target), kind, reduction)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pred, target, ctx.kind, ctx.reduction = inputs
    ctx.save_for_backward(pred, target)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    pred, target = ctx.saved_tensors
    towards_target = ctx.needs_input_grad[1]
    dpred, dtarget = BOX_IOU_LOSS_BACKWARD(grad, pred, target, ctx.kind, ctx.reduction, towards_target)
    return dpred, dtarget if towards_target else None, None, None


BOX_IOU_LOSS = Op(
    "box_iou_loss",
    "(Tensor pred, Tensor target, str kind, str reduction) -> Tensor",
    check=_check_forward,
    reference=_reference,
    fake=_fake,
    native=_native,
    direct=_direct,
    native_ops=("box_iou_loss",),
    triton=lambda: _triton().forward,
    save=_save,
    backward=_backward,
    autocast=torch.float32,
)

# ---- public ----------------------------------------------------------------------------------------------------------


def box_iou_loss(pred: Tensor, target: Tensor, kind: str = "ciou", reduction: str = "none") -> Tensor:
    """``1 - overlap`` of each predicted box with its target: the IoU losses of box regression.

    pred, target: [N, 4], (x1, y1, x2, y2) in any unit; the same dtype: float32, float64, or float16 / bfloat16, which are
        computed in float32.
    kind: "iou", "giou", "diou" or "ciou", see the table in ``cnnkernels._boxes``.
    reduction: "none", "mean" or "sum".

    Returns [N], or one value, in float32 (float64 for float64): 0 for equal boxes, at most 1 (iou), 2 (giou, diou) or 3
    (ciou).  Differentiable, twice, in both boxes.  Under autocast: float32.  Degenerate boxes: see the top of this file.
    Raises ValueError for shapes, kind, reduction and other devices, TypeError for dtypes.

    Rezatofighi et al. 2019, "Generalized Intersection over Union", arXiv:1902.09630; Zheng et al. 2019, "Distance-IoU
    Loss: Faster and Better Learning for Bounding Box Regression", arXiv:1911.08287.
    """
    return BOX_IOU_LOSS(pred, target, kind, reduction)
