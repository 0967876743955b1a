"""Batch norm with the statistics of the batch, an activation, and a residual connection: the training form of ``bn_act``.

    mean_c, var_c = mean and biased variance of x over everything but C
    y = act(weight_c * (x - mean_c) / sqrt(var_c + eps) + bias_c) (+ residual)

The backward pass computes the normalised values and the activation's derivative again from x: nothing of x's size is
saved but x itself, where batch norm and activation as two modules save two tensors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cnnkernels import _activation, _batch_norm, _check, _layout
from cnnkernels._batch_norm import along_channels
from cnnkernels._op import Op


def _triton() -> Any:
    from cnnkernels.ops.triton import bn_act

    return bn_act


def _normalise(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(normalised x, scale = weight / std, input of the activation), broadcast over x, in the accumulate dtype."""
    acc = _check.acc_dtype(x)
    invstd = along_channels((var.to(acc) + eps).rsqrt(), x)
    xhat = (x.to(acc) - along_channels(mean.to(acc), x)) * invstd
    scale, v = invstd, xhat
    if weight is not None:
        w = along_channels(weight.to(acc), x)
        scale, v = invstd * w, xhat * w
    if bias is not None:
        v = v + along_channels(bias.to(acc), x)
    return xhat, scale, v


# ---- backward -----------------------------------------------------------------------------------------------------------


def _check_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
    act: str,
) -> None:
    _batch_norm.check_input("bn_act_train_backward", x)
    _check.same_shape("bn_act_train_backward", "grad", grad, x, "the shape of x,")
    _check.channel_vector("bn_act_train_backward", "mean", mean, x, x.shape[1])
    _check.channel_vector("bn_act_train_backward", "var", var, x, x.shape[1])
    _batch_norm.check("bn_act_train_backward", x, x.shape[1], bn_weight, bn_bias, eps)
    _activation.check("bn_act_train_backward", act)


def _reference_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
    act: str,
) -> tuple[Tensor, Tensor, Tensor]:
    acc = _check.acc_dtype(x)
    axes = [i for i in range(x.dim()) if i != 1]
    count = max(x.numel() // max(x.shape[1], 1), 1)
    xhat, scale, v = _normalise(x, mean, var, bn_weight, bn_bias, eps)
    g = grad.to(acc) * _activation.reference_grad(v, act)
    dbias = g.sum(axes)
    dweight = (g * xhat).sum(axes)
    dx = scale * (g - along_channels(dbias / count, x) - xhat * along_channels(dweight / count, x))
    return dx.to(x.dtype).contiguous(memory_format=_layout.memory_format(x)), dweight, dbias


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
    act: str,
) -> tuple[Tensor, Tensor, Tensor]:
    def vector() -> Tensor:
        return x.new_empty([x.shape[1]], dtype=_check.acc_dtype(x))

    return _layout.empty_like(x), vector(), vector()


def _direct_backward(
    ops: Any,
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
    act: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return ops.bn_act_train_backward(grad, x, mean, var, bn_weight, bn_bias, eps, *_activation.parse(act))


def _native_backward(
    ops: Any,
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
    act: str,
) -> tuple[Tensor, Tensor, Tensor]:
    x = _layout.dense(x)
    m, v = _batch_norm.vector(mean, x), _batch_norm.vector(var, x)
    gamma, beta = _batch_norm.vector_or_none(bn_weight, x), _batch_norm.vector_or_none(bn_bias, x)
    return _direct_backward(ops, _layout.dense_as(grad, x), x, m, v, gamma, beta, eps, act)


BN_ACT_TRAIN_BACKWARD = Op(
    "bn_act_train_backward",
    "(Tensor grad, Tensor x, Tensor mean, Tensor var, Tensor? bn_weight, Tensor? bn_bias, float eps, str act)"
    " -> (Tensor dx, Tensor dweight, Tensor dbias)",
    check=_check_backward,
    reference=_reference_backward,
    fake=_fake_backward,
    native=_native_backward,
    direct=_direct_backward,
    native_ops=("bn_act_train_backward",),
    triton=lambda: _triton().train_backward,
)

# ---- forward ------------------------------------------------------------------------------------------------------------


def _check_forward(
    x: Tensor, bn_weight: Tensor | None, bn_bias: Tensor | None, eps: float, act: str, residual: Tensor | None
) -> None:
    _batch_norm.check_input("bn_act_train", x)
    _batch_norm.check("bn_act_train", x, x.shape[1], bn_weight, bn_bias, eps)
    _activation.check("bn_act_train", act)
    if residual is not None:
        _check.same_shape("bn_act_train", "residual", residual, x, "the shape of x,")
    _batch_norm.check_count("bn_act_train", x.shape)


def _reference(
    x: Tensor, bn_weight: Tensor | None, bn_bias: Tensor | None, eps: float, act: str, residual: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    mean, var = _batch_norm.reference_stats(x)
    y = _activation.reference(_normalise(x, mean, var, bn_weight, bn_bias, eps)[2], act)
    if residual is not None:
        y = y + residual.to(y.dtype)
    return y.to(x.dtype).contiguous(memory_format=_layout.memory_format(x)), mean.detach(), var.detach()


def _fake(
    x: Tensor, bn_weight: Tensor | None, bn_bias: Tensor | None, eps: float, act: str, residual: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    def vector() -> Tensor:
        return x.new_empty([x.shape[1]], dtype=_check.acc_dtype(x))

    return _layout.empty_like(x), vector(), vector()


def _direct(
    ops: Any,
    x: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
    act: str,
    residual: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return ops.bn_act_train(x, bn_weight, bn_bias, residual, eps, *_activation.parse(act))


def _native(
    ops: Any,
    x: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
    act: str,
    residual: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    x = _layout.dense(x)
    r = None if residual is None else _layout.dense_as(residual, x)
    gamma, beta = _batch_norm.vector_or_none(bn_weight, x), _batch_norm.vector_or_none(bn_bias, x)
    return _direct(ops, x, gamma, beta, eps, act, r)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, ctx.eps, ctx.act, _ = inputs
    _, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.save_for_backward(x, mean, var, weight, bias)


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    x, mean, var, weight, bias = ctx.saved_tensors
    dx = dweight = dbias = None
    if any(ctx.needs_input_grad[:3]):
        if torch.is_grad_enabled():  # for a second derivative the statistics must be functions of x
            mean, var = _batch_norm.reference_stats(x)
        dx, dweight, dbias = BN_ACT_TRAIN_BACKWARD(grad, x, mean, var, weight, bias, ctx.eps, ctx.act)
        dweight = None if weight is None else dweight.to(weight.dtype)
        dbias = None if bias is None else dbias.to(bias.dtype)
    return dx, dweight, dbias, None, None, grad if ctx.needs_input_grad[5] else None


BN_ACT_TRAIN = Op(
    "bn_act_train",
    "(Tensor x, Tensor? bn_weight, Tensor? bn_bias, float eps, str act, Tensor? residual)"
    " -> (Tensor y, Tensor mean, Tensor var)",
    check=_check_forward,
    reference=_reference,
    fake=_fake,
    native=_native,
    direct=_direct,
    native_ops=("bn_act_train",),
    triton=lambda: _triton().train_forward,
    save=_save,
    backward=_backward,
    autocast=("x", "residual"),
)

# ---- public -------------------------------------------------------------------------------------------------------------


def bn_act_train(
    x: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    eps: float = 1e-5,
    momentum: float = 0.1,
    act: str,
    residual: Tensor | None = None,
) -> Tensor:
    """``act(batch_norm(x)) (+ residual)`` with the batch's own statistics; the running buffers move towards them.

    x: [N, C, ...] (two dimensions or more), float32, float16, bfloat16 or float64; half types are computed in fp32.
    bn_weight, bn_bias: [C], float32 or x's dtype, or None (1 and 0).
    running_mean, running_var: [C], or both None: ``running = (1 - momentum) * running + momentum * batch``, in place and
    only once the op has succeeded, the variance unbiased.  momentum is between 0 and 1; an empty batch changes nothing.
    eps: added to the variance.  act: as ``activation`` takes it.  residual: like x, added after the activation.

    Returns a tensor of x's shape and dtype; contiguous, or channels_last if x (4-d) is.  Differentiable, twice, towards
    x, bn_weight, bn_bias and residual.  Raises ValueError or TypeError for arguments that do not fit each other, and
    ValueError when a channel has a single value.
    Ioffe and Szegedy 2015, "Batch Normalization", arXiv:1502.03167.
    """
    _batch_norm.check_input("bn_act_train", x)
    _batch_norm.check_running("bn_act_train", x, x.shape[1], running_mean, running_var, momentum)
    y, mean, var = BN_ACT_TRAIN(x, bn_weight, bn_bias, eps, act, residual)
    _batch_norm.update_running(running_mean, running_var, mean, var, x.numel() // max(x.shape[1], 1), momentum)
    return y
