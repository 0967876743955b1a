"""Launches of the depthwise convolution with batch norm in training: the kernels are those of its two halves."""

from __future__ import annotations

from torch import Tensor

from cnnkernels import _conv, _layout
from cnnkernels.ops.triton import bn_act
from cnnkernels.ops.triton.dwconv_bn_act import Convolution, Ints


def forward(
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
    window = _conv.resolve("dwconv_bn_act_train", x, weight, stride, padding, dilation)
    shape = _conv.output_shape(x, window)
    y, u = _layout.empty_like(x, shape), _layout.empty_like(x, shape)
    conv = Convolution(x, weight, window)
    mean, var = conv.run_with_stats(_layout.dense(x), weight.contiguous(), u)
    affine = (bn_act.contiguous(bn_weight), bn_act.contiguous(bn_bias))
    bn_act.apply(u, mean, var, *affine, None, y, conv.output, eps, act)
    return y, u, mean, var


def backward(
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
    window = _conv.resolve("dwconv_bn_act_train_backward", x, weight, stride, padding, dilation)
    dx, du = _layout.empty_like(x), _layout.empty_like(x, u.shape)
    dgamma_dtype = mean.dtype if bn_weight is None else bn_weight.dtype
    dbeta_dtype = mean.dtype if bn_bias is None else bn_bias.dtype
    if not u.numel():
        dgamma, dbeta = (mean.new_zeros(mean.shape, dtype=d) for d in (dgamma_dtype, dbeta_dtype))
        return dx.zero_(), weight.new_zeros(weight.shape), dgamma, dbeta
    conv = Convolution(x, weight, window)
    grad, u = _layout.dense_as(grad, x), _layout.dense_as(u, x)
    x, weight = _layout.dense(x), weight.contiguous()
    vectors = (mean.contiguous(), var.contiguous(), bn_act.contiguous(bn_weight), bn_act.contiguous(bn_bias))
    dgamma, dbeta = bn_act.apply_train_grad(grad, u, *vectors, du, conv.output, eps, act)
    conv.grad_input(du, weight, dx)
    return dx, conv.grad_weight(du, x, weight), dgamma.to(dgamma_dtype), dbeta.to(dbeta_dtype)
