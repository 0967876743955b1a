"""A coarse map at the size of a finer one, added to it: the step down of a feature pyramid, as one pass.

    out[..., i, j] = x[..., source(i), source(j)] + y[..., i, j]
    source(i) = min(floor(i * scale), H - 1), scale = H / H2, in fp32 for every dtype

Equal to ``F.interpolate(x, size=y.shape[2:], mode="nearest") + y`` bit for bit, without the map in between.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnkernels import _check, _layout
from cnnkernels._op import Op


def _sources(size: int, large: int, device: torch.device) -> Tensor:
    """Which of ``size`` pixels each of ``large`` ones shows."""
    scale = torch.tensor(size / large, dtype=torch.float32, device=device)  # rounded once more: the fp32 quotient
    i = torch.arange(large, dtype=torch.float32, device=device)
    return (i * scale).floor().long().clamp(max=size - 1)


def _triton() -> Any:
    from cnnkernels.ops.triton import upsample_add

    return upsample_add


# ---- gradient of x: the sum over the pixels that show a pixel ---------------------------------------------------------------


def _check_sizes(op: str, name: str, t: Tensor) -> None:
    _check.tensor(op, name, t, 4)
    if t.shape[2] < 1 or t.shape[3] < 1:
        _check.fail(op, f"{name} must be [N, C, H, W] with H and W at least 1", _check.shape(t))


def _check_backward(grad: Tensor, height: int, width: int) -> None:
    _check_sizes("upsample_add_backward", "grad", grad)
    if height < 1 or width < 1:
        _check.fail("upsample_add_backward", "height and width must be at least 1", [height, width])


def _small(grad: Tensor, height: int, width: int) -> list[int]:
    return [grad.shape[0], grad.shape[1], height, width]


def _reference_backward(grad: Tensor, height: int, width: int) -> Tensor:
    n, c, large_height, large_width = grad.shape
    g = grad.to(_check.acc_dtype(grad))
    rows = g.new_zeros(n, c, height, large_width).index_add(2, _sources(height, large_height, g.device), g)
    dx = g.new_zeros(n, c, height, width).index_add(3, _sources(width, large_width, g.device), rows)
    return _layout.copy_as(dx.to(grad.dtype), grad)


UPSAMPLE_ADD_BACKWARD: Op = Op(
    "upsample_add_backward",
    "(Tensor grad, SymInt height, SymInt width) -> Tensor",
    check=_check_backward,
    reference=_reference_backward,
    fake=lambda grad, height, width: _layout.empty_like(grad, _small(grad, height, width)),
    native=lambda ops, grad, height, width: ops.upsample_add_backward(_layout.dense(grad), height, width),
    direct=lambda ops, grad, height, width: ops.upsample_add_backward(grad, height, width),
    native_ops=("upsample_add_backward",),
    triton=lambda: _triton().backward,
)

# ---- forward -------------------------------------------------------------------------------------------------------------


def _check_forward(x: Tensor, y: Tensor) -> None:
    _check_sizes("upsample_add", "x", x)
    _check_sizes("upsample_add", "y", y)
    if x.shape[:2] != y.shape[:2]:
        _check.fail(
            "upsample_add", f"x must be [N, C, H, W] with y's N and C (y is {_check.shape(y)})", _check.shape(x)
        )
    _check.like("upsample_add", "x", x, y, "y")


def _reference(x: Tensor, y: Tensor) -> Tensor:
    rows, columns = (_sources(x.shape[i], y.shape[i], x.device) for i in (2, 3))
    return _layout.copy_as(x.index_select(2, rows).index_select(3, columns) + y, y)


def _eager(x: Tensor, y: Tensor) -> Tensor:
    if y.dtype is torch.float64 or not y.numel():  # float64's scale is of float64 there; no channels are an error
        return _reference(x, y)
    return _layout.as_result(F.interpolate(x, size=tuple(y.shape[2:]), mode="nearest") + y, y)


def _native(ops: Any, x: Tensor, y: Tensor) -> Tensor:
    y = _layout.dense(y)
    return ops.upsample_add(_layout.dense_as(x, y), y)  # type: ignore[no-any-return]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.height, ctx.width = inputs[0].shape[2:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    wanted = ctx.needs_input_grad
    return UPSAMPLE_ADD_BACKWARD(grad, ctx.height, ctx.width) if wanted[0] else None, grad if wanted[1] else None


UPSAMPLE_ADD: Op = Op(
    "upsample_add",
    "(Tensor x, Tensor y) -> Tensor",
    check=_check_forward,
    reference=_reference,
    fake=lambda x, y: _layout.empty_like(y),
    native=_native,
    direct=lambda ops, x, y: ops.upsample_add(x, y),
    eager=_eager,
    native_ops=("upsample_add",),
    triton=lambda: _triton().forward,
    save=_save,
    backward=_backward,
    autocast=("x", "y"),
)


def upsample_add(x: Tensor, y: Tensor) -> Tensor:
    """``F.interpolate(x, size=y.shape[2:], mode="nearest") + y``, with one read of each and one write.

    x: [N, C, H, W]; y: [N, C, H2, W2] of the same dtype: float32, float16, bfloat16 or float64.  H, W, H2, W2: any sizes
    of at least 1; in a pyramid H2 is 2H or 2H - 1.

    Returns a new tensor of y's shape and dtype, channels_last if y is.  Differentiable, any number of times; the gradient
    of x is added up in fp32 for half types, in one order; that of y is the incoming one.
    Raises ValueError for other shapes, TypeError for other dtypes.
    Lin, Dollar, Girshick, He, Hariharan, Belongie 2016, "Feature Pyramid Networks for Object Detection",
    arXiv:1612.03144, figure 3.
    """
    return UPSAMPLE_ADD(x, y)  # type: ignore[no-any-return]
