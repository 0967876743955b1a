"""Triton kernels of a coarse map added to a finer one at its size, in either layout, and of the coarse one's gradient."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from cnnkernels import _layout

BLOCK = 1024


@triton.jit
def _source(i, size, scale):
    """Which of ``size`` pixels pixel i shows; scale, product and floor in fp32, as PyTorch has them."""
    s = tl.floor(i.to(tl.float32) * scale).to(tl.int32)
    return tl.where(s < size, s, size - 1)


@triton.jit
def _place(i, channels, height, width, LAST: tl.constexpr):
    """(image and channel as one number, row, column) of the elements i of a dense map."""
    if LAST:
        pixel = i // channels
        column = pixel % width
        row = pixel // width % height
        plane = pixel // width // height * channels + i % channels
    else:
        column = i % width
        row = i // width % height
        plane = i // width // height
    return plane, row.to(tl.int32), column.to(tl.int32)


@triton.jit
def _offset(plane, row, column, channels, height, width, LAST: tl.constexpr):
    """Where in a dense map an element is."""
    if LAST:
        at = ((plane // channels * height + row) * width + column) * channels + plane % channels
    else:
        at = (plane * height + row) * width + column
    return at


@triton.jit
def upsample_add_kernel(
    x_ptr, y_ptr, out_ptr, elements, channels, height, width, large_height, large_width, row_scale, column_scale,
    LAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # one program: BLOCK neighbouring elements of y; 2.25e bytes each where x is a quarter of it
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < elements
    plane, row, column = _place(i, channels, large_height, large_width, LAST)
    row, column = _source(row, height, row_scale), _source(column, width, column_scale)
    x = tl.load(x_ptr + _offset(plane, row, column, channels, height, width, LAST), mask=mask, other=0.0)
    y = tl.load(y_ptr + i, mask=mask, other=0.0)
    tl.store(out_ptr + i, (x.to(tl.float32) + y.to(tl.float32)).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def upsample_add_backward_kernel(
    grad_ptr, dx_ptr, elements, channels, height, width, large_height, large_width, row_scale, column_scale,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # One program: BLOCK neighbouring elements of dx, 5e bytes each where it is a quarter of grad.  A pixel is shown by at
    # most ROWS - 2 rows that follow each other, the first of them within one of ceil(row * large_height / height).
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < elements
    plane, row, column = _place(i, channels, height, width, LAST)
    top = ((row.to(tl.int64) * large_height + height - 1) // height).to(tl.int32) - 1
    left = ((column.to(tl.int64) * large_width + width - 1) // width).to(tl.int32) - 1
    total = tl.zeros([BLOCK], tl.float32)
    for r in range(ROWS):
        y = top + r
        shows = mask & (y >= 0) & (y < large_height) & (_source(y, height, row_scale) == row)
        for c in range(COLUMNS):
            x = left + c
            at = _offset(plane, y, x, channels, large_height, large_width, LAST)
            here = shows & (x >= 0) & (x < large_width) & (_source(x, width, column_scale) == column)
            total += tl.load(grad_ptr + at, mask=here, other=0.0).to(tl.float32)
    tl.store(dx_ptr + i, total.to(dx_ptr.dtype.element_ty), mask=mask)


def forward(x: Tensor, y: Tensor) -> Tensor:
    out = _layout.empty_like(y)
    if out.numel():
        y = _layout.dense(y)
        (_, channels, height, width), (large_height, large_width) = x.shape, y.shape[2:]
        upsample_add_kernel[(triton.cdiv(y.numel(), BLOCK),)](
            _layout.dense_as(x, y),
            y,
            out,
            y.numel(),
            channels,
            height,
            width,
            large_height,
            large_width,
            height / large_height,
            width / large_width,
            LAST=_layout.is_channels_last(y),
            BLOCK=BLOCK,
            num_warps=4,
        )
    return out


def backward(grad: Tensor, height: int, width: int) -> Tensor:
    n, channels, large_height, large_width = grad.shape
    dx = _layout.empty_like(grad, [n, channels, height, width])
    if dx.numel():
        grad = _layout.dense(grad)
        upsample_add_backward_kernel[(triton.cdiv(dx.numel(), BLOCK),)](
            grad,
            dx,
            dx.numel(),
            channels,
            height,
            width,
            large_height,
            large_width,
            height / large_height,
            width / large_width,
            ROWS=triton.cdiv(large_height, height) + 2,
            COLUMNS=triton.cdiv(large_width, width) + 2,
            LAST=_layout.is_channels_last(grad),
            BLOCK=BLOCK,
            num_warps=4,
        )
    return dx
