"""Squeeze-and-excitation: channels scaled by gates that two small layers compute from the channels' means.

    s = mean_hw(x)    h = act(w1 s + b1)    g = gate(w2 h + b2)    y = x * g

The backward pass reads x and dy once for both sums it needs (of x and of dy * x), so that nothing but the inputs is saved.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cnnkernels import _activation, _check, _layout
from cnnkernels._op import Op

GATES = ("sigmoid", "hard_sigmoid")


def _check_arguments(
    op: str, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, act: str, gate: str
) -> None:
    _check.tensor(op, "x", x, 4)
    c = x.shape[1]
    if 0 in x.shape[1:]:
        _check.fail(op, "x must have channels and pixels", _check.shape(x))
    _check.tensor(op, "w1", w1)
    r = w1.shape[0] if w1.dim() else 0
    for name, w, rows, columns, want in (
        ("w1", w1, r, c, f"[R, C] with C={c}"),
        ("w2", w2, c, r, f"[C, R] with C={c}, R={r}"),
    ):
        _check.tensor(op, name, w)
        if w.dim() not in (2, 4) or w.shape[:2] != (rows, columns) or w.numel() != rows * columns or r < 1:
            _check.fail(op, f"{name} must be {want} (or with 1x1 spatial dimensions)", _check.shape(w))
        _check.like(op, name, w, x)
    for name, b, axis, size in (("b1", b1, "R", r), ("b2", b2, "C", c)):
        if b is not None:
            _check.tensor(op, name, b)
            if b.dim() != 1 or b.shape[0] != size:
                _check.fail(op, f"{name} must be [{axis}] with {axis}={size}", _check.shape(b))
            _check.like(op, name, b, x)
    _activation.check(op, act)
    if gate not in GATES:
        _check.fail(op, f"gate must be {' or '.join(GATES)}", repr(gate))


def _gates(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, act: str, gate: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """s, w1 s + b1, h, w2 h + b2, of [N, C] or [N, R], in the accumulate dtype."""
    acc = _check.acc_dtype(x)
    s = x.to(acc).mean((2, 3))
    hidden = F.linear(s, w1.flatten(1).to(acc), None if b1 is None else b1.to(acc))
    h = _activation.reference(hidden, act)
    return s, hidden, h, F.linear(h, w2.flatten(1).to(acc), None if b2 is None else b2.to(acc))


def _triton() -> Any:
    from cnnkernels.ops.triton import squeeze_excite

    return squeeze_excite


# ---- backward -----------------------------------------------------------------------------------------------------------


def _check_backward(
    grad: Tensor,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    act: str,
    gate: str,
) -> None:
    _check_arguments("squeeze_excite_backward", x, w1, b1, w2, b2, act, gate)
    _check.same_shape("squeeze_excite_backward", "grad", grad, x, "the shape of x,")


def _reference_backward(
    grad: Tensor,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    act: str,
    gate: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    s, hidden, h, pre = _gates(x, w1, b1, w2, b2, act, gate)
    acc, pixels = s.dtype, x.shape[2] * x.shape[3]
    g = _activation.reference(pre, gate)[:, :, None, None]
    dy = grad.to(acc)
    dpre = (dy * x.to(acc)).sum((2, 3)) * _activation.reference_grad(pre, gate)
    dhidden = (dpre @ w2.flatten(1).to(acc)) * _activation.reference_grad(hidden, act)
    ds = (dhidden @ w1.flatten(1).to(acc))[:, :, None, None] / pixels
    fmt = _layout.memory_format(x)
    return (
        (dy * g + ds).to(x.dtype).clone(memory_format=fmt),
        (dhidden.t() @ s).reshape(w1.shape).to(x.dtype),
        dhidden.sum(0).to(x.dtype),
        (dpre.t() @ h).reshape(w2.shape).to(x.dtype),
        dpre.sum(0).to(x.dtype),
    )


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    act: str,
    gate: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        _layout.empty_like(x),
        x.new_empty(w1.shape),
        x.new_empty(w1.shape[0]),
        x.new_empty(w2.shape),
        x.new_empty(w2.shape[0]),
    )


def _parameters(*ts: Tensor | None) -> Any:
    return tuple(t if t is None or t.is_contiguous() else t.contiguous() for t in ts)


def _direct_backward(
    ops: Any,
    grad: Tensor,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    act: str,
    gate: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return ops.squeeze_excite_backward(grad, x, w1, b1, w2, b2, *_activation.parse(act), _activation.CODES[gate])


def _native_backward(
    ops: Any,
    grad: Tensor,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    act: str,
    gate: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad, x = _layout.dense_as(grad, x), _layout.dense(x)
    w1, b1, w2, b2 = _parameters(w1, b1, w2, b2)
    return _direct_backward(ops, grad, x, w1, b1, w2, b2, act, gate)


SQUEEZE_EXCITE_BACKWARD = Op(
    "squeeze_excite_backward",
    "(Tensor grad, Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, str act, str gate)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    check=_check_backward,
    reference=_reference_backward,
    fake=_fake_backward,
    native=_native_backward,
    direct=_direct_backward,
    native_ops=("squeeze_excite_backward",),
    triton=lambda: _triton().backward,
    # sums of x and dy * x, dy * gate + ds; two FCs again, and for each the gradients of its input and weight
    flops=lambda grad, x, w1, b1, w2, b2, act, gate, out_shape=None: (
        5 * x[0] * x[1] * x[2] * x[3] + 12 * x[0] * w1[0] * w1[1]
    ),
)

# ---- forward ------------------------------------------------------------------------------------------------------------


def _check_forward(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, act: str, gate: str
) -> None:
    _check_arguments("squeeze_excite", x, w1, b1, w2, b2, act, gate)


def _reference(x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, act: str, gate: str) -> Tensor:
    pre = _gates(x, w1, b1, w2, b2, act, gate)[3]
    y = (x * _activation.reference(pre, gate)[:, :, None, None]).to(x.dtype)
    return y.clone(memory_format=_layout.memory_format(x))  # canonical strides, also for one image


def _direct(
    ops: Any, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, act: str, gate: str
) -> Tensor:
    return ops.squeeze_excite(x, w1, b1, w2, b2, *_activation.parse(act), _activation.CODES[gate])


def _native(
    ops: Any, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, act: str, gate: str
) -> Tensor:
    w1, b1, w2, b2 = _parameters(w1, b1, w2, b2)
    return _direct(ops, _layout.dense(x), w1, b1, w2, b2, act, gate)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.act, ctx.gate = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, w1, b1, w2, b2 = ctx.saved_tensors
    dx, dw1, db1, dw2, db2 = SQUEEZE_EXCITE_BACKWARD(grad, x, w1, b1, w2, b2, ctx.act, ctx.gate)
    return dx, dw1, None if b1 is None else db1, dw2, None if b2 is None else db2, None, None


SQUEEZE_EXCITE = Op(
    "squeeze_excite",
    "(Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, str act, str gate) -> Tensor",
    check=_check_forward,
    reference=_reference,
    fake=lambda x, w1, b1, w2, b2, act, gate: _layout.empty_like(x),
    native=_native,
    direct=_direct,
    native_ops=("squeeze_excite",),
    triton=lambda: _triton().forward,
    save=_save,
    backward=_backward,
    autocast=("x", "w1", "b1", "w2", "b2"),
    # sums, two FCs, scaling
    flops=lambda x, w1, b1, w2, b2, act, gate, out_shape=None: (
        2 * x[0] * x[1] * x[2] * x[3] + 4 * x[0] * w1[0] * w1[1]
    ),
)

# ---- public -------------------------------------------------------------------------------------------------------------


def squeeze_excite(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    *,
    act: str = "relu",
    gate: str = "sigmoid",
) -> Tensor:
    """``x * gate(w2 act(w1 mean_hw(x) + b1) + b2)``: a squeeze-and-excitation block in one call.

    x: [N, C, H, W], float32, float16, bfloat16 or float64; every other tensor has its dtype.
    w1, b1: [R, C] or [R, C, 1, 1], and [R] or None: the squeezing layer.
    w2, b2: [C, R] or [C, R, 1, 1], and [C] or None: the exciting layer.
    act: an activation's name; gate: "sigmoid" (EfficientNet) or "hard_sigmoid" (MobileNetV3).

    Means, layers and gates are computed in fp32 for half types.  Returns a tensor of x's shape and dtype, channels_last if
    x is.  Differentiable in every tensor, twice.  Raises ValueError for shapes and names, TypeError for dtypes.
    Hu, Shen, Albanie, Sun, Wu 2017, "Squeeze-and-Excitation Networks", arXiv:1709.01507.
    """
    return SQUEEZE_EXCITE(x, w1, b1, w2, b2, act, gate)
