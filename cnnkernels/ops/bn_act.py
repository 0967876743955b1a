"""Batch norm as a given scale and shift per channel, an activation, and a residual connection, in one pass.

    y = act(scale_c * x + shift_c) (+ residual)

What follows a dense convolution in inference: the CBL, CBM and CBS blocks of YOLOv3, v4 and v5, for example.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cnnkernels import _activation, _batch_norm, _check, _layout
from cnnkernels._batch_norm import along_channels
from cnnkernels._op import Op


def _triton() -> Any:
    from cnnkernels.ops.triton import bn_act

    return bn_act


# ---- backward -----------------------------------------------------------------------------------------------------------


def _check_backward(grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor, act: str) -> None:
    _batch_norm.check_input("bn_act_backward", x)
    _check.same_shape("bn_act_backward", "grad", grad, x, "the shape of x,")
    _check.channel_vector("bn_act_backward", "scale", scale, x, x.shape[1])
    _check.channel_vector("bn_act_backward", "shift", shift, x, x.shape[1])
    _activation.check("bn_act_backward", act)


def _reference_backward(
    grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor, act: str
) -> tuple[Tensor, Tensor, Tensor]:
    acc = _check.acc_dtype(x)
    axes = [i for i in range(x.dim()) if i != 1]
    xa, s, b = x.to(acc), along_channels(scale.to(acc), x), along_channels(shift.to(acc), x)
    g = grad.to(acc) * _activation.reference_grad(xa * s + b, act)
    dx = (g * s).to(x.dtype).contiguous(memory_format=_layout.memory_format(x))
    return dx, (g * xa).sum(axes).to(scale.dtype), g.sum(axes).to(shift.dtype)


def _fake_backward(grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor, act: str) -> tuple[Tensor, Tensor, Tensor]:
    return _layout.empty_like(x), scale.new_empty(scale.shape), shift.new_empty(shift.shape)


def _direct_backward(
    ops: Any, grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor, act: str
) -> tuple[Tensor, Tensor, Tensor]:
    return ops.bn_act_backward(grad, x, scale, shift, *_activation.parse(act))


def _native_backward(
    ops: Any, grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor, act: str
) -> tuple[Tensor, Tensor, Tensor]:
    x = _layout.dense(x)
    dx, dscale, dshift = _direct_backward(
        ops, _layout.dense_as(grad, x), x, _batch_norm.vector(scale, x), _batch_norm.vector(shift, x), act
    )
    return dx, dscale.to(scale.dtype), dshift.to(shift.dtype)


BN_ACT_BACKWARD = Op(
    "bn_act_backward",
    "(Tensor grad, Tensor x, Tensor scale, Tensor shift, str act) -> (Tensor dx, Tensor dscale, Tensor dshift)",
    check=_check_backward,
    reference=_reference_backward,
    fake=_fake_backward,
    native=_native_backward,
    direct=_direct_backward,
    native_ops=("bn_act_backward",),
    triton=lambda: _triton().backward,
)

# ---- forward ------------------------------------------------------------------------------------------------------------


def _check_forward(x: Tensor, scale: Tensor, shift: Tensor, act: str, residual: Tensor | None) -> None:
    _batch_norm.check_input("bn_act", x)
    _check.channel_vector("bn_act", "scale", scale, x, x.shape[1])
    _check.channel_vector("bn_act", "shift", shift, x, x.shape[1])
    _activation.check("bn_act", act)
    if residual is not None:
        _check.same_shape("bn_act", "residual", residual, x, "the shape of x,")


def _reference(x: Tensor, scale: Tensor, shift: Tensor, act: str, residual: Tensor | None) -> Tensor:
    acc = _check.acc_dtype(x)
    y = _activation.reference(x.to(acc) * along_channels(scale.to(acc), x) + along_channels(shift.to(acc), x), act)
    if residual is not None:
        y = y + residual.to(acc)
    return y.to(x.dtype).contiguous(memory_format=_layout.memory_format(x))


def _eager(x: Tensor, scale: Tensor, shift: Tensor, act: str, residual: Tensor | None) -> Tensor:
    if x.dtype is not _check.acc_dtype(x):  # two passes would round half types twice
        return _reference(x, scale, shift, act, residual)
    y = _activation.eager(_batch_norm.eager(x, scale, shift), act, inplace=True)
    return _layout.as_result(y if residual is None else y.add_(residual), x)


def _direct(ops: Any, x: Tensor, scale: Tensor, shift: Tensor, act: str, residual: Tensor | None) -> Tensor:
    return ops.bn_act(x, scale, shift, residual, *_activation.parse(act))


def _native(ops: Any, x: Tensor, scale: Tensor, shift: Tensor, act: str, residual: Tensor | None) -> Tensor:
    x = _layout.dense(x)
    r = None if residual is None else _layout.dense_as(residual, x)
    return _direct(ops, x, _batch_norm.vector(scale, x), _batch_norm.vector(shift, x), act, r)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, shift, ctx.act, _ = inputs
    ctx.save_for_backward(x, scale, shift)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, scale, shift = ctx.saved_tensors
    dx = dscale = dshift = None
    if any(ctx.needs_input_grad[:3]):
        dx, dscale, dshift = BN_ACT_BACKWARD(grad, x, scale, shift, ctx.act)
    return dx, dscale, dshift, None, grad if ctx.needs_input_grad[4] else None


BN_ACT = Op(
    "bn_act",
    "(Tensor x, Tensor scale, Tensor shift, str act, Tensor? residual) -> Tensor",
    check=_check_forward,
    reference=_reference,
    fake=lambda x, scale, shift, act, residual: _layout.empty_like(x),
    native=_native,
    direct=_direct,
    eager=_eager,
    native_ops=("bn_act",),
    triton=lambda: _triton().forward,
    save=_save,
    backward=_backward,
    autocast=("x", "residual"),
)

# ---- public -------------------------------------------------------------------------------------------------------------


def bn_act(x: Tensor, scale: Tensor, shift: Tensor, *, act: str, residual: Tensor | None = None) -> Tensor:
    """``act(scale_c * x + shift_c) (+ residual)``, with one read of x and one write.

    x: [N, C, ...] (two dimensions or more), float32, float16, bfloat16 or float64; half types are computed in fp32.
    scale, shift: [C], float32 or x's dtype: a batch norm in inference is ``scale = weight / sqrt(running_var + eps)``,
    ``shift = bias - running_mean * scale`` (Ioffe and Szegedy 2015, arXiv:1502.03167).
    act: an activation's name, as ``activation`` takes it.  residual: like x, added after the activation.

    Returns a tensor of x's shape and dtype; contiguous, or channels_last if x (4-d) is.  Differentiable, twice, towards
    x, scale, shift and residual.  Raises ValueError or TypeError for arguments that do not fit each other.
    """
    return BN_ACT(x, scale, shift, act, residual)
