"""Triton kernels of spatial pyramid pooling: one launch a size, each pooling what the one before wrote.

A maximum's place travels beside it as one integer, (value, place), as in csrc/math/order_key.h: NaN above all numbers, of
equal numbers the first place, of NaNs the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from cnnkernels import _layout

BLOCK = 256


@triton.jit
def _pixel(block, elements, channels, height, width, LAST: tl.constexpr, BLOCK: tl.constexpr):
    """Elements of x in the order of its memory: which, where in the plane, and what lies before in a tensor of slots."""
    element = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = element < elements
    if LAST:
        pixel = element // channels % (height * width)
        before = element // channels * channels
    else:
        pixel = element % (height * width)
        before = element // (channels * height * width) * (channels * height * width)
    return element, mask, pixel // width, pixel % width, before


@triton.jit
def spp_pool_kernel(
    from_ptr,
    to_ptr,
    elements,
    channels,
    height,
    width,
    from_spread,
    from_start,
    to_spread,
    to_start,
    PAIRS: tl.constexpr,
    LAST: tl.constexpr,
    RADIUS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # One program: BLOCK elements of the shape of x, maxima over (2 * RADIUS + 1)^2 elements of another tensor of that shape.
    # Both lie in slots: `spread` more of what comes before an element, and `start` from the first slot.  The values are
    # numbers, or PAIRS of one and its place; only the window's overlap is read more than once, from the caches.
    element, mask, h, w, before = _pixel(tl.program_id(0), elements, channels, height, width, LAST, BLOCK)
    column = channels * (1 + from_spread) if LAST else 1
    place = element + before * from_spread + from_start
    most = tl.load(from_ptr + place, mask=mask)
    most = most if PAIRS else most.to(tl.float32)
    for i in range(2 * RADIUS + 1):
        for j in range(2 * RADIUS + 1):
            y, x = h + (i - RADIUS), w + (j - RADIUS)
            inside = mask & (y >= 0) & (y < height) & (x >= 0) & (x < width)
            other = tl.load(from_ptr + place + ((y - h) * width + (x - w)) * column, mask=inside)
            other = other if PAIRS else other.to(tl.float32)
            # Written so that a NaN wins, and stays; an unloaded value counts for nothing.
            most = tl.where(inside & ((other > most) | (other != other)), other, most)
    tl.store(to_ptr + element + before * to_spread + to_start, most, mask=mask)


@triton.jit
def spp_pair_kernel(x_ptr, pair_ptr, elements, channels, height, width, LAST: tl.constexpr, BLOCK: tl.constexpr):
    # One program: BLOCK elements of x as (value, place) pairs.
    element, mask, h, w, _ = _pixel(tl.program_id(0), elements, channels, height, width, LAST, BLOCK)
    value = tl.load(x_ptr + element, mask=mask).to(tl.float32) + 0.0  # -0 becomes 0
    bits = value.to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    nan = value != value
    place = (h * width + w).to(tl.int64)
    low = tl.where(nan, place, 0xFFFFFFFF - place)
    pair = tl.where(nan, 0x7FFFFFFF, key).to(tl.int64) * 0x100000000 + low
    tl.store(pair_ptr + element, pair, mask=mask)


@triton.jit
def spp_gather_kernel(
    pair_ptr,
    grad_ptr,
    sum_ptr,
    elements,
    channels,
    height,
    width,
    grad_spread,
    grad_start,
    LAST: tl.constexpr,
    RADIUS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # One program: BLOCK elements of x; adds the gradients of the windows whose maximum they are, in scan order.
    element, mask, h, w, before = _pixel(tl.program_id(0), elements, channels, height, width, LAST, BLOCK)
    column = channels if LAST else 1
    mine = (h * width + w).to(tl.int64)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for i in range(2 * RADIUS + 1):
        for j in range(2 * RADIUS + 1):
            y, x = h + (i - RADIUS), w + (j - RADIUS)
            inside = mask & (y >= 0) & (y < height) & (x >= 0) & (x < width)
            step = ((y - h) * width + (x - w)) * column
            pair = tl.load(pair_ptr + element + step, mask=inside)
            low = pair & 0xFFFFFFFF
            place = tl.where((pair >> 32) == 0x7FFFFFFF, low, 0xFFFFFFFF - low)
            chosen = inside & (place == mine)
            there = element + step + (before + (step if LAST else 0)) * grad_spread + grad_start
            total += tl.load(grad_ptr + there, mask=chosen, other=0.0).to(tl.float32)
    total += tl.load(sum_ptr + element, mask=mask)
    tl.store(sum_ptr + element, total, mask=mask)


def _from_small_to_large(x: Tensor, kernel_sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(how much further it reaches than the one before, how far, its slot from 1) of each size."""
    before, most = 0, max(x.shape[2:]) - 1
    for k, slot in sorted((k, i + 1) for i, k in enumerate(kernel_sizes)):
        radius = min(k // 2, most)
        yield radius - before, radius, slot
        before = radius


def _slot_size(x: Tensor) -> int:
    """From an element in one slot to the same element in the next."""
    _, c, h, w = x.shape
    return c if _layout.is_channels_last(x) else c * h * w


def spp(x: Tensor, kernel_sizes: Sequence[int]) -> Tensor:
    n, c, h, w = x.shape
    more = len(kernel_sizes)
    y = _layout.empty_like(x, [n, (1 + more) * c, h, w])
    y[:, :c] = x
    slot_size, before = _slot_size(x), 0
    for step, _, slot in _from_small_to_large(x, kernel_sizes) if x.numel() else ():
        spp_pool_kernel[(triton.cdiv(x.numel(), BLOCK),)](
            y, y, x.numel(), c, h, w, more, before * slot_size, more, slot * slot_size,
            PAIRS=False, LAST=_layout.is_channels_last(x), RADIUS=step, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
        before = slot
    return y


def spp_backward(grad: Tensor, x: Tensor, kernel_sizes: Sequence[int]) -> Tensor:
    c, h, w = x.shape[1:]
    x, grad = _layout.dense(x), _layout.dense_as(grad, x)
    more, slot_size, elements, last = len(kernel_sizes), _slot_size(x), x.numel(), _layout.is_channels_last(x)
    sums = torch.empty_like(x, dtype=torch.float32).copy_(grad[:, :c])
    pairs, others = (torch.empty_like(x, dtype=torch.int64) for _ in range(2))
    grid, common = (triton.cdiv(elements, BLOCK),), {"LAST": last, "BLOCK": BLOCK, "num_warps": 4}
    if elements:
        spp_pair_kernel[grid](x, pairs, elements, c, h, w, **common)
    for step, radius, slot in _from_small_to_large(x, kernel_sizes) if elements else ():
        spp_pool_kernel[grid](pairs, others, elements, c, h, w, 0, 0, 0, 0, PAIRS=True, RADIUS=step, **common)
        pairs, others = others, pairs
        spp_gather_kernel[grid](pairs, grad, sums, elements, c, h, w, more, slot * slot_size, RADIUS=radius, **common)
    return _layout.empty_like(x).copy_(sums)
