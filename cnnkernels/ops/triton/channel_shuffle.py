"""Triton kernel of the channel shuffle, of one or two tensors into one or two, in either layout."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cnnkernels import _layout

BITS = {2: torch.int16, 4: torch.int32}  # elements travel as integers, so that no conversion can touch a NaN's payload


@triton.jit
def channel_shuffle_kernel(
    a_ptr,
    b_ptr,
    left_ptr,
    right_ptr,
    rows,
    groups,
    channels,
    channels_a,
    channels_left,
    pixels,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    # One program: ROWS x COLUMNS elements of the shuffled tensor, 2e bytes each.  NCHW: a row is a plane, the columns its
    # pixels.  channels_last: a row is a pixel, the columns its channels, gathered from one cache-resident row.
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS).to(tl.int64)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    width = channels if LAST else pixels
    mask = (row < rows) & (column < width)
    out_channel = column.to(tl.int64) if LAST else row % channels
    outer = row if LAST else row // channels  # pixel, or image
    in_channel = (out_channel % groups) * (channels // groups) + out_channel // groups
    channels_b = channels - channels_a
    channels_right = channels - channels_left
    if LAST:
        a = outer * channels_a + in_channel
        b = outer * channels_b + in_channel - channels_a
        left = outer * channels_left + out_channel
        right = outer * channels_right + out_channel - channels_left
    else:
        a = (outer * channels_a + in_channel) * pixels + column
        b = (outer * channels_b + in_channel - channels_a) * pixels + column
        left = (outer * channels_left + out_channel) * pixels + column
        right = (outer * channels_right + out_channel - channels_left) * pixels + column
    from_a = in_channel < channels_a
    to_left = out_channel < channels_left
    value = tl.where(from_a, tl.load(a_ptr + a, mask=mask & from_a), tl.load(b_ptr + b, mask=mask & (from_a == 0)))
    tl.store(left_ptr + left, value, mask=mask & to_left)
    tl.store(right_ptr + right, value, mask=mask & (to_left == 0))


def _launch(ins: tuple[Tensor, Tensor], outs: tuple[Tensor, Tensor], groups: int, channels: int, last: bool) -> None:
    n, channels_a, h, w = ins[0].shape
    if n * channels * h * w == 0:
        return
    rows, width = (n * h * w, channels) if last else (n * channels, h * w)
    columns = min(triton.next_power_of_2(width), 1024)
    tile_rows = max(1, min(2048 // columns, triton.next_power_of_2(rows)))
    bits = BITS[ins[0].element_size()]
    grid = (triton.cdiv(rows, tile_rows), triton.cdiv(width, columns))
    channel_shuffle_kernel[grid](
        *(t.view(bits) for t in (*ins, *outs)),
        rows,
        groups,
        channels,
        channels_a,
        outs[0].shape[1],
        h * w,
        LAST=last,
        ROWS=tile_rows,
        COLUMNS=columns,
        num_warps=4,
    )


def shuffle(x: Tensor, groups: int) -> Tensor:
    y = _layout.empty_like(x)
    last = _layout.is_channels_last(x)
    x = _layout.dense(x)
    _launch((x, x), (y, y), groups, x.shape[1], last)
    return y


def _move(a: Tensor, b: Tensor, channels_left: int, groups: int) -> tuple[Tensor, Tensor]:
    n, channels, h, w = a.shape[0], a.shape[1] + b.shape[1], *a.shape[2:]
    left = _layout.empty_like(a, [n, channels_left, h, w])
    right = _layout.empty_like(a, [n, channels - channels_left, h, w])
    last = _layout.is_channels_last(a)
    _launch((_layout.dense(a), _layout.dense_as(b, a)), (left, right), groups, channels, last)
    return left, right


def concat_shuffle_split(a: Tensor, b: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    return _move(a, b, (a.shape[1] + b.shape[1]) // 2, groups)


def concat_shuffle_split_backward(dleft: Tensor, dright: Tensor, channels_a: int, groups: int) -> tuple[Tensor, Tensor]:
    return _move(dleft, dright, channels_a, max(2 * dleft.shape[1] // groups, 1))
