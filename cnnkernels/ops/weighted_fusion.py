"""Fast normalised fusion of BiFPN, with the activation that follows it, as one pass over the maps.

y = act(sum_i c_i x_i)        c_i = max(w_i, 0) / (sum_j max(w_j, 0) + eps)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cnnkernels import _activation, _batch_norm, _check, _layout
from cnnkernels._op import Op

MOST_MAPS = 4

Maps = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


def _check_maps(op: str, maps: Maps, weights: Tensor, eps: float, act: str) -> None:
    first = maps[0]
    _check.tensor(op, "xs[0]", first, 4)
    given = [x for x in maps if x is not None]
    if len(given) == 3 and maps[2] is None:
        _check.fail(op, "x2 must be a tensor where x3 is one", None)
    for i, x in enumerate(given[1:], 1):
        _check.same_shape(op, f"xs[{i}]", x, first, "the shape of xs[0],")
    _check.channel_vector(op, "weights", weights, first, len(given), "maps")
    _check.eps(op, eps)
    _activation.check(op, act)


def _given(maps: Maps, dtype: torch.dtype) -> list[Tensor]:
    return [x.to(dtype) for x in maps if x is not None]


def _shares(weights: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(c, the sum that weights are divided by)."""
    w = weights.to(dtype).relu()
    total = w.sum() + eps
    return w / total, total


def _fused(maps: list[Tensor], shares: Tensor) -> Tensor:
    p = maps[0] * shares[0]
    for i, x in enumerate(maps[1:], 1):
        p = p + x * shares[i]
    return p


def _dense(maps: Maps) -> Maps:
    first, second, *others = maps
    x = _layout.dense(first)
    third, fourth = (None if o is None else _layout.dense_as(o, x) for o in others)
    return x, _layout.dense_as(second, x), third, fourth


def _triton() -> Any:
    from cnnkernels.ops.triton import weighted_fusion

    return weighted_fusion


# ---- backward ------------------------------------------------------------------------------------------------------------


def _check_backward(
    grad: Tensor, x0: Tensor, x1: Tensor, x2: Tensor | None, x3: Tensor | None, weights: Tensor, eps: float, act: str
) -> None:
    _check_maps("weighted_fusion_backward", (x0, x1, x2, x3), weights, eps, act)
    _check.same_shape("weighted_fusion_backward", "grad", grad, x0, "the shape of xs[0],")


def _reference_backward(
    grad: Tensor, x0: Tensor, x1: Tensor, x2: Tensor | None, x3: Tensor | None, weights: Tensor, eps: float, act: str
) -> tuple[Tensor, ...]:
    acc = _check.acc_dtype(x0)
    maps, (shares, total) = _given((x0, x1, x2, x3), acc), _shares(weights, eps, acc)
    g = grad.to(acc) * _activation.reference_grad(_fused(maps, shares), act)
    dots = torch.stack([(g * x).sum() for x in maps])
    dw = torch.where(weights > 0, (dots - (dots * shares).sum()) / total, 0).to(weights.dtype)
    dxs = [_layout.copy_as((g * shares[i]).to(x0.dtype), x0) for i in range(len(maps))]
    return *dxs, *(x0.new_empty(0) for _ in range(MOST_MAPS - len(maps))), dw


def _fake_backward(grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    x0, weights = args[0], args[MOST_MAPS]
    maps = (x0.new_empty(0) if x is None else _layout.empty_like(x0) for x in args[:MOST_MAPS])
    return *maps, weights.new_empty(weights.shape)


def _direct_backward(ops: Any, grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    *tensors, eps, act = args
    return ops.weighted_fusion_backward(grad, *tensors, eps, *_activation.parse(act))  # type: ignore[no-any-return]


def _native_backward(ops: Any, grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    x0, weights, eps, act = args[0], *args[MOST_MAPS:]
    maps = _dense(args[:MOST_MAPS])  # type: ignore[arg-type]
    *dxs, dw = _direct_backward(ops, _layout.dense_as(grad, maps[0]), *maps, _batch_norm.vector(weights, x0), eps, act)
    return *dxs, dw.to(weights.dtype)


WEIGHTED_FUSION_BACKWARD = Op(
    "weighted_fusion_backward",
    "(Tensor grad, Tensor x0, Tensor x1, Tensor? x2, Tensor? x3, Tensor weights, float eps, str act)"
    " -> (Tensor dx0, Tensor dx1, Tensor dx2, Tensor dx3, Tensor dweights)",  # [0] where there is no map
    check=_check_backward,
    reference=_reference_backward,
    fake=_fake_backward,
    native=_native_backward,
    direct=_direct_backward,
    native_ops=("weighted_fusion_backward",),
    triton=lambda: _triton().backward,
)

# ---- forward -------------------------------------------------------------------------------------------------------------


def _check_forward(
    x0: Tensor, x1: Tensor, x2: Tensor | None, x3: Tensor | None, weights: Tensor, eps: float, act: str
) -> None:
    _check_maps("weighted_fusion", (x0, x1, x2, x3), weights, eps, act)


def _reference(
    x0: Tensor, x1: Tensor, x2: Tensor | None, x3: Tensor | None, weights: Tensor, eps: float, act: str
) -> Tensor:
    acc = _check.acc_dtype(x0)
    y = _activation.reference(_fused(_given((x0, x1, x2, x3), acc), _shares(weights, eps, acc)[0]), act)
    return y.to(x0.dtype).contiguous(memory_format=_layout.memory_format(x0))


def _eager(
    x0: Tensor, x1: Tensor, x2: Tensor | None, x3: Tensor | None, weights: Tensor, eps: float, act: str
) -> Tensor:
    if x0.dtype is not _check.acc_dtype(x0):  # every pass would round half types
        return _reference(x0, x1, x2, x3, weights, eps, act)
    shares = _shares(weights, eps, x0.dtype)[0]
    y = x0 * shares[0]
    for i, x in enumerate((x1, x2, x3), 1):
        if x is not None:
            y.addcmul_(x, shares[i])
    return _layout.as_result(_activation.eager(y, act, inplace=True), x0)


def _direct(ops: Any, *args: Any) -> Tensor:
    *tensors, eps, act = args
    return ops.weighted_fusion(*tensors, eps, *_activation.parse(act))  # type: ignore[no-any-return]


def _native(ops: Any, *args: Any) -> Tensor:
    weights, eps, act = args[MOST_MAPS:]
    return _direct(ops, *_dense(args[:MOST_MAPS]), _batch_norm.vector(weights, args[0]), eps, act)  # type: ignore[arg-type]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps, ctx.act = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors
    gradients = WEIGHTED_FUSION_BACKWARD(grad, *tensors, ctx.eps, ctx.act)
    return *(None if t is None else g for t, g in zip(tensors, gradients, strict=True)), None, None


WEIGHTED_FUSION = Op(
    "weighted_fusion",
    "(Tensor x0, Tensor x1, Tensor? x2, Tensor? x3, Tensor weights, float eps, str act) -> Tensor",
    check=_check_forward,
    reference=_reference,
    fake=lambda x0, *others: _layout.empty_like(x0),
    native=_native,
    direct=_direct,
    eager=_eager,
    native_ops=("weighted_fusion",),
    triton=lambda: _triton().forward,
    save=_save,
    backward=_backward,
    autocast=("x0", "x1", "x2", "x3"),
)


def weighted_fusion(xs: Sequence[Tensor], weights: Tensor, *, eps: float = 1e-4, act: str = "identity") -> Tensor:
    """``act(sum_i w_i x_i / (sum_j w_j + eps))`` with ``w = relu(weights)``: one read of every map and one write.

    xs: 2 to 4 maps of one shape [N, C, H, W], float32, float16, bfloat16 or float64; half types are computed in fp32.
    weights: [len(xs)], float32 or the maps' dtype.  eps: at least 0; with 0 and no positive weight the result is NaN.
    act: an activation's name, as ``activation`` takes it.

    Returns a new tensor of the maps' shape and dtype, channels_last if the first map is.  Differentiable, twice, towards
    every map and the weights; the maps are kept for that, their sum is computed again.
    Raises ValueError or TypeError for arguments that do not fit each other.
    Tan, Pang, Le 2019, "EfficientDet: Scalable and Efficient Object Detection", arXiv:1911.09070, section 3.3.
    """
    if isinstance(xs, Tensor) or not isinstance(xs, Sequence):
        raise TypeError(f"weighted_fusion: xs must be a sequence of tensors, got {type(xs).__name__}")
    if not 2 <= len(xs) <= MOST_MAPS:
        _check.fail("weighted_fusion", f"xs must be 2 to {MOST_MAPS} maps", len(xs))
    return WEIGHTED_FUSION(*xs, *(None for _ in range(MOST_MAPS - len(xs))), weights, eps, act)  # type: ignore[no-any-return]
