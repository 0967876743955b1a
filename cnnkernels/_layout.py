"""Memory layout rules: an op runs on a dense NCHW or channels_last tensor and answers in the same layout.

A 4-d input counts as channels_last when its channel stride is 1 and it is not plainly contiguous; every other input
counts as NCHW.  Anything that is not dense in its layout (slices, expanded or overlapping views, odd permutations) is
copied once.
"""

from __future__ import annotations

import torch
from torch import Tensor

OVERRUNS_BELOW = 8
"""Of fewer input channels in channels_last, oneDNN (torch 2.13, CPU) writes past the gradient of a strided 1x1 convolution's
weight: "free(): invalid next size".  NCHW takes another kernel.
"""


def is_channels_last(x: Tensor) -> bool:
    if x.dim() != 4 or x.is_contiguous():
        return False
    return x.is_contiguous(memory_format=torch.channels_last) or (
        x.stride(1) == 1 and x.shape[1] > 1 and x.shape[2] * x.shape[3] > 1
    )


def memory_format(x: Tensor) -> torch.memory_format:
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def dense(x: Tensor) -> Tensor:
    """x itself if it is dense in its layout and 16-byte aligned, else a copy that is."""
    if x.is_contiguous() and x.data_ptr() % 16 == 0:
        return x
    if not x.is_contiguous(memory_format=memory_format(x)):
        return x.contiguous(memory_format=memory_format(x))
    return x if x.data_ptr() % 16 == 0 else x.clone(memory_format=memory_format(x))


def dense_as(t: Tensor, x: Tensor) -> Tensor:
    """t (of x's number of dimensions) dense in x's layout, copied if it has to be."""
    fmt = memory_format(x)
    t = t.contiguous(memory_format=fmt)
    return t if t.data_ptr() % 16 == 0 else t.clone(memory_format=fmt)


def as_result(y: Tensor, x: Tensor) -> Tensor:
    """y with the strides that ``empty_like(x, y.shape)`` has: itself if it has them, else a copy."""
    return y if y.stride() == _strides(y.shape, is_channels_last(x)) else copy_as(y, x)


def _strides(shape: torch.Size, channels_last: bool) -> tuple[int, ...]:
    order = (1, 3, 2, 0) if channels_last else range(len(shape) - 1, -1, -1)
    strides, step = [0] * len(shape), 1
    for i in order:
        strides[i] = step
        step *= max(shape[i], 1)
    return tuple(strides)


def copy_as(t: Tensor, x: Tensor) -> Tensor:
    """A copy of t with the strides that ``empty_like(x, t.shape)`` has, also where a size is 1; differentiable."""
    return t.clone(memory_format=memory_format(x))


def empty_like(x: Tensor, shape: list[int] | tuple[int, ...] | None = None) -> Tensor:
    """Uninitialised, of x's dtype and device, dense in x's layout: what every op returns, and what its fake returns."""
    size = x.shape if shape is None else shape
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format(x))
