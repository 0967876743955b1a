"""Depthwise convolution, batch norm with batch statistics, and activation: the training pass.

    u = dwconv(x)            mean[c], var[c] = biased statistics of u over n, p, q, in the accumulation dtype
    y = act((u - mean) / sqrt(var + eps) * bn_weight + bn_bias)

The statistics are those of the accumulators before u is rounded to x's dtype, taken by a shifted or pairwise scheme that
stays accurate when |mean| is far larger than the standard deviation.  x, u and the statistics are kept for the backward
pass.  Gradients flow through y only: u, mean and var are results to look at, as in torch's batch_norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cnnkernels import _activation, _batch_norm, _check, _conv, _layout
from cnnkernels._op import Op

NAME, BACKWARD_NAME = "dwconv_bn_act_train", "dwconv_bn_act_train_backward"
Ints = Sequence[int]


def _triton() -> Any:
    from cnnkernels.ops.triton import dwconv_bn_act_train

    return dwconv_bn_act_train


def _parameters(x: Tensor, bn_weight: Tensor | None, bn_bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """bn_weight and bn_bias in the accumulation dtype; 1 and 0 where the batch norm has none."""
    acc, c = _check.acc_dtype(x), x.shape[1]
    weight = torch.ones(c, dtype=acc, device=x.device) if bn_weight is None else bn_weight.to(acc)
    bias = torch.zeros(c, dtype=acc, device=x.device) if bn_bias is None else bn_bias.to(acc)
    return weight, bias


def _statistics(u: Tensor) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(u, (0, 2, 3), correction=0)
    return mean, var


def _per_channel(t: Tensor) -> Tensor:
    return t.reshape(1, -1, 1, 1)


# ---- backward -----------------------------------------------------------------------------------------------------------


def _check_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    u: Tensor,
    mean: Tensor,
    var: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
) -> None:
    window = _conv.check(BACKWARD_NAME, x, weight, stride, padding, dilation)
    shape = _conv.output_shape(x, window)
    for name, t in (("grad", grad), ("u", u)):
        _check.tensor(BACKWARD_NAME, name, t)
        if list(t.shape) != shape:
            _check.fail(BACKWARD_NAME, f"{name} must have the output's shape {shape}", _check.shape(t))
        _check.like(BACKWARD_NAME, name, t, x)
    for name, t in (("mean", mean), ("var", var)):
        _check.channel_vector(BACKWARD_NAME, name, t, x, x.shape[1])
    _batch_norm.check(BACKWARD_NAME, x, x.shape[1], bn_weight, bn_bias, eps)
    _activation.check(BACKWARD_NAME, act)


def _reference_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    u: Tensor,
    mean: Tensor,
    var: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # u, mean and var are functions of x and weight: computing them again lets second derivatives see that.
    window = _conv.resolve(BACKWARD_NAME, x, weight, stride, padding, dilation)
    acc = _check.acc_dtype(x)
    conv = _conv.reference(x, weight, window)
    m, v = _statistics(conv)
    gamma, beta = _parameters(x, bn_weight, bn_bias)
    rstd = _per_channel(torch.rsqrt(v + eps))
    xhat = (conv - _per_channel(m)) * rstd
    g = grad.to(acc) * _activation.reference_grad(xhat * _per_channel(gamma) + _per_channel(beta), act)
    dgamma, dbeta = (g * xhat).sum((0, 2, 3)), g.sum((0, 2, 3))
    count = conv.numel() // conv.shape[1]
    du = _per_channel(gamma) * rstd * (g - _per_channel(dbeta) / count - xhat * _per_channel(dgamma) / count)
    dx, dweight = _conv.reference_grads(du, x, weight, window)
    return (
        _layout.copy_as(dx.to(x.dtype), x),
        dweight.to(weight.dtype).clone(memory_format=torch.contiguous_format),
        dgamma.to(mean.dtype if bn_weight is None else bn_weight.dtype),
        dbeta.to(mean.dtype if bn_bias is None else bn_bias.dtype),
    )


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    u: Tensor,
    mean: Tensor,
    var: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    *_: Any,
) -> tuple[Tensor, ...]:
    dgamma = mean.new_empty(mean.shape, dtype=(mean if bn_weight is None else bn_weight).dtype)
    dbeta = mean.new_empty(mean.shape, dtype=(mean if bn_bias is None else bn_bias).dtype)
    return _layout.empty_like(x), weight.new_empty(weight.shape), dgamma, dbeta


def _direct_backward(
    ops: Any,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    u: Tensor,
    mean: Tensor,
    var: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    window = _conv.native(weight, stride, padding, dilation)
    code, slope = _activation.parse(act)
    dx, dweight, dgamma, dbeta = ops.dwconv_train_backward(
        grad, x, weight, u, mean, var, bn_weight, bn_bias, eps, window, code, slope
    )
    return dx, dweight.to(weight.dtype), dgamma, dbeta


def _native_backward(
    ops: Any,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    u: Tensor,
    mean: Tensor,
    var: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = _layout.dense(x)
    m, v = _batch_norm.vector(mean, x), _batch_norm.vector(var, x)
    gamma, beta = _batch_norm.vector_or_none(bn_weight, x), _batch_norm.vector_or_none(bn_bias, x)
    dx, dweight, dgamma, dbeta = _direct_backward(
        ops,
        _layout.dense_as(grad, x),
        x,
        weight.contiguous(),
        _layout.dense_as(u, x),
        m,
        v,
        gamma,
        beta,
        eps,
        stride,
        padding,
        dilation,
        act,
    )
    return (
        dx,
        dweight,
        dgamma.to(mean.dtype if bn_weight is None else bn_weight.dtype),
        dbeta.to(mean.dtype if bn_bias is None else bn_bias.dtype),
    )


DWCONV_BN_ACT_TRAIN_BACKWARD = Op(
    BACKWARD_NAME,
    "(Tensor grad, Tensor x, Tensor weight, Tensor u, Tensor mean, Tensor var, Tensor? bn_weight, Tensor? bn_bias, float eps,"
    " int[2] stride, int[]? padding, int[2] dilation, str act) -> (Tensor, Tensor, Tensor, Tensor)",
    check=_check_backward,
    reference=_reference_backward,
    fake=_fake_backward,
    native=_native_backward,
    direct=_direct_backward,
    native_ops=("dwconv_train_backward",),
    triton=lambda: _triton().backward,
    flops=lambda grad, x, weight, *_, out_shape=None, **__: 2 * _conv.flops(weight, grad),  # dx and dweight
)

# ---- forward ------------------------------------------------------------------------------------------------------------


def _check_forward(
    x: Tensor,
    weight: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
) -> None:
    window = _conv.check(NAME, x, weight, stride, padding, dilation)
    _batch_norm.check(NAME, x, x.shape[1], bn_weight, bn_bias, eps)
    _activation.check(NAME, act)
    if x.shape[0] * window.size[0] * window.size[1] <= 1:
        shape = _conv.output_shape(x, window)
        _check.fail(NAME, "Expected more than 1 value per channel when training", f"an output of shape {shape}")


def _reference(
    x: Tensor,
    weight: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    window = _conv.resolve(NAME, x, weight, stride, padding, dilation)
    u = _conv.reference(x, weight, window)
    mean, var = _statistics(u)
    gamma, beta = _parameters(x, bn_weight, bn_bias)
    v = (u - _per_channel(mean)) * _per_channel(torch.rsqrt(var + eps) * gamma) + _per_channel(beta)
    y = _activation.reference(v, act).to(x.dtype)
    return _layout.copy_as(y, x), _layout.copy_as(u.detach().to(x.dtype), x), mean.detach(), var.detach()


def _fake(
    x: Tensor,
    weight: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = _conv.output_shape(x, _conv.resolve(NAME, x, weight, stride, padding, dilation))
    mean = x.new_empty(x.shape[1], dtype=_check.acc_dtype(x))
    return _layout.empty_like(x, shape), _layout.empty_like(x, shape), mean, torch.empty_like(mean)


def _direct(
    ops: Any,
    x: Tensor,
    weight: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    window = _conv.native(weight, stride, padding, dilation)
    code, slope = _activation.parse(act)
    return ops.dwconv_train(x, weight, bn_weight, bn_bias, eps, window, code, slope)


def _native(
    ops: Any, x: Tensor, weight: Tensor, bn_weight: Tensor | None, bn_bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gamma, beta = _batch_norm.vector_or_none(bn_weight, x), _batch_norm.vector_or_none(bn_bias, x)
    return _direct(ops, _layout.dense(x), weight.contiguous(), gamma, beta, *rest)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    x, weight, bn_weight, bn_bias, *ctx.rest = inputs
    _, u, mean, var = output
    ctx.mark_non_differentiable(u, mean, var)
    ctx.save_for_backward(x, weight, u, mean, var, bn_weight, bn_bias)


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    dx, dweight, dgamma, dbeta = DWCONV_BN_ACT_TRAIN_BACKWARD(grad, *ctx.saved_tensors, *ctx.rest)
    needs = ctx.needs_input_grad
    return (dx, dweight, dgamma if needs[2] else None, dbeta if needs[3] else None, None, None, None, None, None)


DWCONV_BN_ACT_TRAIN = Op(
    NAME,
    "(Tensor x, Tensor weight, Tensor? bn_weight=None, Tensor? bn_bias=None, float eps=1e-05, int[2] stride=1,"
    ' int[]? padding=None, int[2] dilation=1, str act="relu6") -> (Tensor, Tensor, Tensor, Tensor)',
    check=_check_forward,
    reference=_reference,
    fake=_fake,
    native=_native,
    direct=_direct,
    native_ops=("dwconv_train",),
    triton=lambda: _triton().forward,
    save=_save,
    backward=_backward,
    autocast=("x", "weight"),
    flops=lambda x, weight, *_, out_shape=None, **__: _conv.flops(weight, out_shape[0]),
)

# ---- public -------------------------------------------------------------------------------------------------------------


def dwconv_bn_act_train(
    x: Tensor,
    weight: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    eps: float = 1e-5,
    momentum: float = 0.1,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | None = None,
    dilation: int | Sequence[int] = 1,
    act: str = "relu6",
) -> Tensor:
    """``act(batch_norm(dwconv(x)))`` with batch statistics: what Conv2d, BatchNorm2d and an activation do in training.

    x, weight, stride, padding, dilation, act: as for ``dwconv_bn_act``; the output must have two values per channel.
    bn_weight, bn_bias: [C], float32 or x's dtype, or None for 1 and 0.
    running_mean, running_var: [C], float32 or x's dtype, or both None; once everything else has succeeded they become
        ``(1 - momentum) * running + momentum * batch``, with the unbiased batch variance.  momentum: from 0 to 1.
    eps: added to the variance, at least 0.

    Returns [N, C, P, Q] in x's dtype and layout.  Differentiable, twice, in x, weight, bn_weight and bn_bias.
    Raises ValueError for shapes or sizes that do not fit together, TypeError for dtypes and types.

    Ioffe and Szegedy 2015, "Batch Normalization", arXiv:1502.03167; Howard et al. 2017, "MobileNets", arXiv:1704.04861.
    """
    strides, paddings = _conv.ints(NAME, "stride", stride), _conv.padding_ints(NAME, padding)
    dilations = _conv.ints(NAME, "dilation", dilation)
    if isinstance(x, Tensor) and x.dim() == 4:
        _batch_norm.check_running(NAME, x, x.shape[1], running_mean, running_var, momentum)
    y, _, mean, var = DWCONV_BN_ACT_TRAIN(x, weight, bn_weight, bn_bias, eps, strides, paddings, dilations, act)
    _batch_norm.update_running(running_mean, running_var, mean, var, y.numel() // y.shape[1], momentum)
    return y
