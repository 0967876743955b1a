"""Element-wise activations, Mish among them, forward and backward in one pass each.

    y = act(x)            dx = grad * act'(x)

Only x is kept for the backward pass; the derivative is computed again from it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cnnkernels import _activation, _check
from cnnkernels._op import Op


def _dense(x: Tensor) -> Tensor:
    """x if its memory has no gaps or overlaps, in whatever order; else a copy that has none."""
    return x if x.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense(x) else x.clone()


# ---- backward --------------------------------------------------------------------------------------------------------


def _check_backward(grad: Tensor, x: Tensor, act: str) -> None:
    _check.tensor("activation_backward", "x", x)
    _check.same_shape("activation_backward", "grad", grad, x, "the shape of x,")
    _activation.check("activation_backward", act)


def _reference_backward(grad: Tensor, x: Tensor, act: str) -> Tensor:
    return (grad * _activation.reference_grad(x, act)).to(x.dtype)


def _direct_backward(ops: Any, grad: Tensor, x: Tensor, act: str) -> Tensor:
    return ops.activation_backward(grad, x, *_activation.parse(act))


def _native_backward(ops: Any, grad: Tensor, x: Tensor, act: str) -> Tensor:
    x = _dense(x)
    if grad.stride() != x.stride():
        grad = torch.empty_like(x).copy_(grad)
    return _direct_backward(ops, grad, x, act)


def _eager_backward(grad: Tensor, x: Tensor, act: str) -> Tensor:
    dx = _activation.eager_grad(grad, x, act)
    return dx if dx.stride() == x.stride() else torch.empty_like(x).copy_(dx)


def _triton() -> Any:
    from cnnkernels.ops.triton import activation

    return activation


ACTIVATION_BACKWARD = Op(
    "activation_backward",
    "(Tensor grad, Tensor x, str act) -> Tensor",
    check=_check_backward,
    reference=_reference_backward,
    fake=lambda grad, x, act: torch.empty_like(x),
    native=_native_backward,
    direct=_direct_backward,
    eager=_eager_backward,
    native_ops=("activation_backward",),
    triton=lambda: _triton().backward,
)

# ---- forward ---------------------------------------------------------------------------------------------------------


def _check_forward(x: Tensor, act: str) -> None:
    _check.tensor("activation", "x", x)
    _activation.check("activation", act)


def _direct(ops: Any, x: Tensor, act: str) -> Tensor:
    return ops.activation(x, *_activation.parse(act))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.act = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (x,) = ctx.saved_tensors
    return ACTIVATION_BACKWARD(grad, x, ctx.act), None


ACTIVATION = Op(
    "activation",
    "(Tensor x, str act) -> Tensor",
    check=_check_forward,
    reference=_activation.reference,
    fake=lambda x, act: torch.empty_like(x),
    native=lambda ops, x, act: _direct(ops, _dense(x), act),
    direct=_direct,
    eager=_activation.eager,
    native_ops=("activation",),
    triton=lambda: _triton().forward,
    save=_save,
    backward=_backward,
)

# ---- public ----------------------------------------------------------------------------------------------------------


def activation(x: Tensor, name: str) -> Tensor:
    """``act(x)``, element by element.

    x: any shape, float32, float16, bfloat16 or float64; half types are computed in fp32.
    name: one of the names in ``cnnkernels._activation``; ``"leaky_relu(0.1)"`` sets the slope.

    Returns a tensor of x's shape, dtype and layout.  Differentiable, twice.  NaN in, NaN out.
    Raises ValueError for an unknown name, TypeError for other dtypes.
    """
    return ACTIVATION(x, name)


def mish(x: Tensor) -> Tensor:
    """``x * tanh(log(1 + exp(x)))``: Misra 2019, "Mish: A Self Regularized Non-Monotonic Activation", arXiv:1908.08681.

    As ``activation(x, "mish")``: one exponential and one reciprocal per element forward, the same again backward, and
    nothing but x is saved between the two.
    """
    return ACTIVATION(x, "mish")
