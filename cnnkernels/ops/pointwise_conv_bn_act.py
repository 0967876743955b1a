"""1x1 convolution of a gated input, folded batch norm, activation and residual in one pass.

    y[n,k,p,q] = act(scale[k] * u[n,k,p,q] + shift[k]) (+ residual[n,k,p,q])
    u[n,k,p,q] = sum_c weight[k,c] * gate[n,c] * x[n,c,p,q]

The gate is what a squeeze-and-excitation block computes: multiplied on the way in, the scaled map is never stored.  Half
types are accumulated in fp32 and rounded once, at the end.

A module in evaluation packs its weights once: ``panels = pack(weight, shift)``, then ``packed(x, panels, channels, act)``.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cnnkernels import _activation, _batch_norm, _check, _ext, _layout
from cnnkernels._op import Op
from cnnkernels._tf32 import without_tf32

NAME = "pointwise_conv_bn_act"


def _output_shape(x: Tensor, weight: Tensor) -> list[int]:
    return [x.shape[0], weight.shape[0], *x.shape[2:]]


def _check_forward(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    act: str,
    gate: Tensor | None,
    residual: Tensor | None,
) -> None:
    _check.tensor(NAME, "x", x, 4)
    if 0 in x.shape[1:]:
        _check.fail(NAME, "x must have channels and pixels", _check.shape(x))
    _check.tensor(NAME, "weight", weight)
    if weight.dim() != 4 or weight.shape[1] != x.shape[1] or weight.shape[2:] != (1, 1) or weight.shape[0] < 1:
        _check.fail(NAME, f"weight must be [K, C, 1, 1] with C={x.shape[1]}", _check.shape(weight))
    _check.like(NAME, "weight", weight, x)
    _check.channel_vector(NAME, "scale", scale, x, weight.shape[0], "K")
    _check.channel_vector(NAME, "shift", shift, x, weight.shape[0], "K")
    _activation.check(NAME, act)
    if gate is not None:
        _check.tensor(NAME, "gate", gate)
        if gate.dim() != 2 or gate.shape != x.shape[:2]:
            _check.fail(NAME, f"gate must be [N, C] with N={x.shape[0]}, C={x.shape[1]}", _check.shape(gate))
        _check.like(NAME, "gate", gate, x)
    if residual is not None:
        _check.tensor(NAME, "residual", residual)
        if list(residual.shape) != _output_shape(x, weight):
            _check.fail(
                NAME, f"residual must have the output's shape {_output_shape(x, weight)}", _check.shape(residual)
            )
        _check.like(NAME, "residual", residual, x)


def _reference(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    act: str,
    gate: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    acc = _check.acc_dtype(x)
    gated = x.to(acc) if gate is None else x.to(acc) * gate.to(acc)[:, :, None, None]
    with without_tf32():
        u = F.conv2d(gated, weight.to(acc))
    v = u * _batch_norm.along_channels(scale.to(acc), u) + _batch_norm.along_channels(shift.to(acc), u)
    y = _activation.reference(v, act)
    if residual is not None:
        y = y + residual.to(acc)
    return _layout.copy_as(y.to(x.dtype), x)


def _direct(
    ops: Any,
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    act: str,
    gate: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    return ops.pointwise(x, weight, scale, shift, gate, residual, *_activation.parse(act))


def _native(
    ops: Any,
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    act: str,
    gate: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    if residual is not None:
        residual = _layout.dense_as(residual, x)
    if gate is not None:
        gate = gate.contiguous()
    a, b = _batch_norm.vector(scale, x), _batch_norm.vector(shift, x)
    return _direct(ops, _layout.dense(x), weight.contiguous(), a, b, act, gate, residual)


def _triton() -> Any:
    from cnnkernels.ops.triton import pointwise_conv_bn_act

    return pointwise_conv_bn_act.forward


POINTWISE_CONV_BN_ACT = Op(
    NAME,
    "(Tensor x, Tensor weight, Tensor scale, Tensor shift, str act, Tensor? gate, Tensor? residual) -> Tensor",
    check=_check_forward,
    reference=_reference,
    fake=lambda x, weight, scale, shift, act, gate, residual: _layout.empty_like(x, _output_shape(x, weight)),
    native=_native,
    native_ops=("pointwise",),
    direct=_direct,
    triton=_triton,
    autocast=("x", "weight", "gate", "residual"),
    # as torch counts a convolution: two per multiply-add
    flops=lambda x, weight, *_, out_shape=None, **__: 2 * x[0] * x[1] * x[2] * x[3] * weight[0],
)


# ---- packed weights, for modules ----------------------------------------------------------------------------------------


def pack(weight: Tensor, shift: Tensor) -> Tensor:
    """[K, C, 1, 1] (scaled) and [K], float32 on the CPU, as ``packed`` reads them: one opaque vector."""
    panels: Tensor = _ext.direct_ops.pointwise_pack(weight.contiguous(), None, shift)
    return panels


def packed(
    x: Tensor, panels: Tensor, channels: int, act: str, gate: Tensor | None = None, residual: Tensor | None = None
) -> Tensor:
    """The op on weights that ``pack`` has ordered; channels: K.

    For plain float32 CPU tensors, dense in channels_last.  Only what the kernel would otherwise read out of bounds is
    checked (RuntimeError), as is the instruction set for which the weights were packed; no autograd, mode or recorder sees it.
    """
    y: Tensor = _ext.direct_ops.pointwise_packed(x, panels, channels, gate, residual, *_activation.parse(act))
    return y


# ---- public -------------------------------------------------------------------------------------------------------------


def pointwise_conv_bn_act(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    *,
    act: str = "identity",
    gate: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``act(scale * conv1x1(x * gate) + shift) + residual``: a 1x1 convolution with what stands around it, in one pass.

    x: [N, C, H, W], float32, float16, bfloat16 or float64; NCHW or channels_last; N may be 0.
    weight: [K, C, 1, 1] of x's dtype.
    scale, shift: [K], float32 or x's dtype: a batch norm folded to ``scale = gamma / sqrt(var + eps)`` and
        ``shift = beta - mean * scale``; of a convolution with a bias: ones and the bias.
    act: an activation's name, see ``cnnkernels.ops.activation``.
    gate: None, or [N, C] of x's dtype: a factor per image and input channel, such as a squeeze-and-excitation block's.
    residual: None, or the output's shape and x's dtype; added after the activation.

    Returns [N, K, H, W] in x's dtype and layout.  Differentiable, twice, in x, weight, scale, shift, gate and residual.
    Raises ValueError for shapes that do not fit together, TypeError for dtypes and types.

    Expansion and projection of mobile networks: Sandler et al. 2018, "MobileNetV2", arXiv:1801.04381; gates: Hu et al.
    2017, arXiv:1709.01507, as in Howard et al. 2019, "Searching for MobileNetV3", arXiv:1905.02244.
    """
    return POINTWISE_CONV_BN_ACT(x, weight, scale, shift, act, gate, residual)
