"""Spatial pyramid pooling of the YOLO networks: maxima over windows of several sizes, beside the input, as one pass.

    y = cat([x] + [max_pool2d(x, k, stride=1, padding=k // 2) for k in kernel_sizes], 1)

Windows are nested, so the maxima of one size are those of the next smaller one, pooled by the difference: 5, 9, 13 are three
times 5.  Which element of a window is its maximum is settled as in PyTorch: the first in scan order, or the last NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnkernels import _check, _layout
from cnnkernels._op import Op

MOST_SIZES = 8


def _check_sizes(op: str, kernel_sizes: Sequence[int]) -> None:
    if not 1 <= len(kernel_sizes) <= MOST_SIZES:
        _check.fail(op, f"kernel_sizes must be 1 to {MOST_SIZES} numbers", list(kernel_sizes))
    for k in kernel_sizes:
        if k < 1 or k % 2 == 0:
            _check.fail(op, "kernel_sizes must be odd and positive", list(kernel_sizes))


def _check_map(op: str, x: Tensor) -> None:
    _check.tensor(op, "x", x, 4)
    if any(size == 0 for size in x.shape[1:]):
        _check.fail(op, "x must be [N, C, H, W] with C, H and W at least 1", _check.shape(x))


def _stacked(x: Tensor, kernel_sizes: Sequence[int]) -> list[int]:
    n, c, h, w = x.shape
    return [n, (1 + len(kernel_sizes)) * c, h, w]


def _pool(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Maxima over windows of k x k and where in its plane each is."""
    return F.max_pool2d(x, k, 1, k // 2, return_indices=True)


def _triton() -> Any:
    from cnnkernels.ops.triton import spp

    return spp


# ---- gradient: every window's goes to its maximum --------------------------------------------------------------------------


def _check_backward(grad: Tensor, x: Tensor, kernel_sizes: Sequence[int]) -> None:
    op = "spp_backward"
    _check_map(op, x)
    _check_sizes(op, kernel_sizes)
    _check.tensor(op, "grad", grad, 4)
    if list(grad.shape) != _stacked(x, kernel_sizes):
        _check.fail(op, f"grad must be {_stacked(x, kernel_sizes)} (x is {_check.shape(x)})", _check.shape(grad))
    _check.like(op, "grad", grad, x)


def _reference_backward(grad: Tensor, x: Tensor, kernel_sizes: Sequence[int]) -> Tensor:
    first, *others = grad.to(_check.acc_dtype(x)).split(x.shape[1], 1)
    dx = first.flatten(2)
    for k, g in zip(kernel_sizes, others, strict=True):
        dx = dx.scatter_add(2, _pool(x.detach(), k)[1].flatten(2), g.flatten(2))
    return _layout.copy_as(dx.view(x.shape).to(x.dtype), x)


SPP_BACKWARD = Op(
    "spp_backward",
    "(Tensor grad, Tensor x, int[] kernel_sizes) -> Tensor",
    check=_check_backward,
    reference=_reference_backward,
    fake=lambda grad, x, kernel_sizes: _layout.empty_like(x),
    native=lambda ops, grad, x, sizes: ops.spp_backward(_layout.dense_as(grad, x), _layout.dense(x), sizes),
    direct=lambda ops, grad, x, sizes: ops.spp_backward(grad, x, sizes),
    native_ops=("spp_backward",),
    triton=lambda: _triton().spp_backward,
)

# ---- forward ---------------------------------------------------------------------------------------------------------------


def _check_spp(x: Tensor, kernel_sizes: Sequence[int]) -> None:
    _check_map("spp", x)
    _check_sizes("spp", kernel_sizes)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.kernel_sizes = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (x,) = ctx.saved_tensors
    return SPP_BACKWARD(grad, x, ctx.kernel_sizes), None


SPP = Op(
    "spp",
    "(Tensor x, int[] kernel_sizes=[5, 9, 13]) -> Tensor",
    check=_check_spp,
    reference=lambda x, sizes: _layout.copy_as(torch.cat([x] + [_pool(x, k)[0] for k in sizes], 1), x),
    fake=lambda x, sizes: _layout.empty_like(x, _stacked(x, sizes)),
    native=lambda ops, x, sizes: ops.spp(_layout.dense(x), sizes),
    direct=lambda ops, x, sizes: ops.spp(x, sizes),
    native_ops=("spp",),
    triton=lambda: _triton().spp,
    save=_save,
    backward=_backward,
)


def spp(x: Tensor, kernel_sizes: Sequence[int] = (5, 9, 13)) -> Tensor:
    """``x`` and its maxima over windows of each size, one after the other along the channels.

        y = cat([x] + [max_pool2d(x, k, stride=1, padding=k // 2) for k in kernel_sizes], 1)

    x: [N, C, H, W], float32, float16, bfloat16 or float64.
    kernel_sizes: 1 to 8 odd numbers in any order.

    Returns a new tensor [N, (1 + len(kernel_sizes)) * C, H, W] of x's dtype, channels_last if x is.  A window with a NaN
    gives NaN.  The gradient of a window goes to its maximum: of equal ones the first in scan order, of NaNs the last, as in
    PyTorch; it is added up in float32, in scan order.  Twice differentiable.
    Raises ValueError for even or too many sizes, TypeError for other dtypes or numbers that are not ints.
    He, Zhang, Ren, Sun 2014, "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition",
    arXiv:1406.4729; in this form in Bochkovskiy, Wang, Liao 2020, "YOLOv4: Optimal Speed and Accuracy of Object Detection",
    arXiv:2004.10934.
    """
    for k in kernel_sizes:
        if not isinstance(k, int) or isinstance(k, bool):
            raise TypeError(f"spp: kernel_sizes must be ints, got {type(k).__name__}")
    return SPP(x, list(kernel_sizes))
