"""Depthwise convolution, folded batch norm, activation and residual in one pass over memory.

    y[n,c,p,q] = act(scale[c] * u[n,c,p,q] + shift[c]) + residual[n,c,p,q]
    u[n,c,p,q] = sum_ij weight[c,0,i,j] * x[n, c, p*sh - top + i*dh, q*sw - left + j*dw]         (0 outside x)

Half types are accumulated in fp32 and rounded once, at the end.  Only the inputs are kept for the backward pass; u is
computed again there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cnnkernels import _activation, _batch_norm, _check, _conv, _layout
from cnnkernels._op import Op

NAME, BACKWARD_NAME = "dwconv_bn_act", "dwconv_bn_act_backward"
Ints = Sequence[int]


def _triton() -> Any:
    from cnnkernels.ops.triton import dwconv_bn_act

    return dwconv_bn_act


def _per_channel(x: Tensor) -> tuple[int, int, int, int]:
    return (1, x.shape[1], 1, 1)


# ---- backward -----------------------------------------------------------------------------------------------------------


def _check_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
) -> None:
    window = _conv.check(BACKWARD_NAME, x, weight, stride, padding, dilation)
    _check.channel_vector(BACKWARD_NAME, "scale", scale, x, x.shape[1])
    _check.channel_vector(BACKWARD_NAME, "shift", shift, x, x.shape[1])
    _check.tensor(BACKWARD_NAME, "grad", grad)
    if list(grad.shape) != _conv.output_shape(x, window):
        _check.fail(
            BACKWARD_NAME, f"grad must have the output's shape {_conv.output_shape(x, window)}", _check.shape(grad)
        )
    _check.like(BACKWARD_NAME, "grad", grad, x)
    _activation.check(BACKWARD_NAME, act)


def _reference_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    window = _conv.resolve(BACKWARD_NAME, x, weight, stride, padding, dilation)
    acc = _check.acc_dtype(x)
    u = _conv.reference(x, weight, window)
    a = scale.to(acc).reshape(_per_channel(x))
    g = grad.to(acc) * _activation.reference_grad(a * u + shift.to(acc).reshape(_per_channel(x)), act)
    dx, dweight = _conv.reference_grads(g * a, x, weight, window)
    return (
        _layout.copy_as(dx.to(x.dtype), x),
        dweight.to(weight.dtype).clone(memory_format=torch.contiguous_format),
        (g * u).sum((0, 2, 3)).to(scale.dtype),
        g.sum((0, 2, 3)).to(shift.dtype),
    )


def _fake_backward(
    grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, *_: Any
) -> tuple[Tensor, ...]:
    return (
        _layout.empty_like(x),
        weight.new_empty(weight.shape),
        scale.new_empty(scale.shape),
        shift.new_empty(shift.shape),
    )


def _native_backward(
    ops: Any,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    window = _conv.native(weight, stride, padding, dilation)
    code, slope = _activation.parse(act)
    acc = _check.acc_dtype(x)
    x, w = _layout.dense(x), weight.contiguous()
    a, b = scale.to(acc).contiguous(), shift.to(acc).contiguous()
    u = ops.dwconv(x, w, None, None, None, window, _activation.CODES["identity"], 0.0)
    du, dscale, dshift = ops.bn_act_backward(_layout.dense_as(grad, x), u, a, b, code, slope)
    dx, dweight = ops.dwconv_backward(du, x, w, window)
    return dx, dweight.to(weight.dtype), dscale.to(scale.dtype), dshift.to(shift.dtype)


DWCONV_BN_ACT_BACKWARD = Op(
    BACKWARD_NAME,
    "(Tensor grad, Tensor x, Tensor weight, Tensor scale, Tensor shift, int[2] stride, int[]? padding, int[2] dilation, str act)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    check=_check_backward,
    reference=_reference_backward,
    fake=_fake_backward,
    native=_native_backward,
    native_ops=("dwconv", "bn_act_backward", "dwconv_backward"),
    triton=lambda: _triton().backward,
    flops=lambda grad, x, weight, *_, out_shape=None, **__: 3 * _conv.flops(weight, grad),  # u, dx and dweight
)

# ---- forward ------------------------------------------------------------------------------------------------------------


def _check_forward(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
    residual: Tensor | None,
) -> None:
    window = _conv.check(NAME, x, weight, stride, padding, dilation)
    _check.channel_vector(NAME, "scale", scale, x, x.shape[1])
    _check.channel_vector(NAME, "shift", shift, x, x.shape[1])
    _activation.check(NAME, act)
    if residual is not None:
        _check.tensor(NAME, "residual", residual)
        if list(residual.shape) != _conv.output_shape(x, window):
            _check.fail(
                NAME, f"residual must have the output's shape {_conv.output_shape(x, window)}", _check.shape(residual)
            )
        _check.like(NAME, "residual", residual, x)


def _reference(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
    residual: Tensor | None,
) -> Tensor:
    window = _conv.resolve(NAME, x, weight, stride, padding, dilation)
    acc = _check.acc_dtype(x)
    u = _conv.reference(x, weight, window)
    v = scale.to(acc).reshape(_per_channel(x)) * u + shift.to(acc).reshape(_per_channel(x))
    y = _activation.reference(v, act)
    if residual is not None:
        y = y + residual.to(acc)
    return _layout.copy_as(y.to(x.dtype), x)


def _eager(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
    residual: Tensor | None,
) -> Tensor:
    if x.dtype is not _check.acc_dtype(x):  # half types would be rounded after each step
        return _reference(x, weight, scale, shift, stride, padding, dilation, act, residual)
    window = _conv.resolve(NAME, x, weight, stride, padding, dilation)
    folded = weight * scale.to(x.dtype).reshape(-1, 1, 1, 1)
    y = _activation.eager(_conv.eager(x, folded, shift.to(x.dtype), window), act, inplace=True)
    return _layout.as_result(y if residual is None else y.add_(residual), x)


def _fake(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
    residual: Tensor | None,
) -> Tensor:
    return _layout.empty_like(x, _conv.output_shape(x, _conv.resolve(NAME, x, weight, stride, padding, dilation)))


def _direct(
    ops: Any,
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
    residual: Tensor | None,
) -> Tensor:
    window = _conv.native(weight, stride, padding, dilation)
    code, slope = _activation.parse(act)
    return ops.dwconv(x, weight, scale, shift, residual, window, code, slope)


def _native(
    ops: Any,
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
    residual: Tensor | None,
) -> Tensor:
    if residual is not None:
        residual = _layout.dense_as(residual, x)
    a, b = _batch_norm.vector(scale, x), _batch_norm.vector(shift, x)
    return _direct(ops, _layout.dense(x), weight.contiguous(), a, b, stride, padding, dilation, act, residual)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, scale, shift, *ctx.geometry_and_act, _ = inputs
    ctx.save_for_backward(x, weight, scale, shift)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    inputs: tuple[Tensor | None, ...] = (None,) * 4
    if any(ctx.needs_input_grad[:4]):
        inputs = DWCONV_BN_ACT_BACKWARD(grad, *ctx.saved_tensors, *ctx.geometry_and_act)
    # The dispatcher leaves out trailing arguments that equal their default, so there may be no ninth input.
    return (*inputs, None, None, None, None, grad if any(ctx.needs_input_grad[8:]) else None)


DWCONV_BN_ACT = Op(
    NAME,
    "(Tensor x, Tensor weight, Tensor scale, Tensor shift, int[2] stride=1, int[]? padding=None, int[2] dilation=1,"
    ' str act="relu6", Tensor? residual=None) -> Tensor',
    check=_check_forward,
    reference=_reference,
    fake=_fake,
    native=_native,
    native_ops=("dwconv",),
    direct=_direct,
    eager=_eager,
    triton=lambda: _triton().forward,
    save=_save,
    backward=_backward,
    autocast=("x", "weight", "residual"),
    flops=lambda x, weight, *_, out_shape=None, **__: _conv.flops(weight, out_shape),
)

# ---- public -------------------------------------------------------------------------------------------------------------


def dwconv_bn_act(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | None = None,
    dilation: int | Sequence[int] = 1,
    act: str = "relu6",
    residual: Tensor | None = None,
) -> Tensor:
    """``act(scale * dwconv(x) + shift) + residual``: a depthwise convolution with everything that follows it, in one pass.

    x: [N, C, H, W], float32, float16, bfloat16 or float64; NCHW or channels_last; N may be 0.
    weight: [C, 1, kH, kW] of x's dtype, any kernel size.
    scale, shift: [C], float32 or x's dtype: a batch norm folded to ``scale = gamma / sqrt(var + eps)`` and
        ``shift = beta - mean * scale``.
    stride, dilation: int or (vertical, horizontal), at least 1.
    padding: zeros around x: None keeps the size at stride 1 (``dilation * (k // 2)``, odd kernels only), int,
        (vertical, horizontal) or (left, right, top, bottom).
    act: an activation's name, see ``cnnkernels.ops.activation``.
    residual: None, or the output's shape and x's dtype; added after the activation.

    Returns [N, C, P, Q] in x's dtype and layout, P = (H + top + bottom - dilation * (kH - 1) - 1) // stride + 1.
    Differentiable, twice, in x, weight, scale, shift and residual.
    Raises ValueError for shapes or sizes that do not fit together, TypeError for dtypes and types.

    Depthwise separable convolutions: Howard et al. 2017, "MobileNets", arXiv:1704.04861; batch norm: Ioffe and Szegedy
    2015, arXiv:1502.03167.
    """
    return DWCONV_BN_ACT(
        x,
        weight,
        scale,
        shift,
        _conv.ints(NAME, "stride", stride),
        _conv.padding_ints(NAME, padding),
        _conv.ints(NAME, "dilation", dilation),
        act,
        residual,
    )
