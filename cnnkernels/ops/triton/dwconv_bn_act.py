"""Triton kernels of the depthwise convolution with a folded batch norm, its statistics for training, and its gradients.

Tensors are addressed by channel and pixel strides, as in bn_act.py: one kernel serves both layouts.  A position j
counts pixels over the whole batch, of the output in ``dwconv_kernel`` and ``dwconv_grad_weight_kernel``, of the input
in ``dwconv_grad_input_kernel``, which gathers, so that nothing is added up in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from cnnkernels import _activation, _conv, _layout, _triton
from cnnkernels.ops.triton import bn_act
from cnnkernels.ops.triton.activation import activate
from cnnkernels.ops.triton.bn_act import channel_vector, merge_block, offsets, tile_start

UNROLLED = tl.constexpr(81)  # taps; larger kernels loop, so that their code stays small


@triton.jit
def _load(ptr, c, base, row, column, mask, rows, columns, sc, sp):
    """Elements [BC, BP] of channels c at (row, column) of the images that start at base; 0 outside."""
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    at = base + (row.to(tl.int64) * columns + column) * sp
    at = c.to(tl.int64)[:, None] * sc + at[None, :]
    return tl.load(ptr + at, mask=mask & inside[None, :], other=0.0).to(tl.float32)


@triton.jit
def _add_tap(
    acc, x_ptr, w_ptr, c, base, row, column, mask, channels, rows, columns, sc, sp, dilation_h, dilation_w, tap,
    KH: tl.constexpr, KW: tl.constexpr,
):  # fmt: skip
    i, k = tap // KW, tap % KW
    x = _load(x_ptr, c, base, row + i * dilation_h, column + k * dilation_w, mask, rows, columns, sc, sp)
    weight = tl.load(w_ptr + c.to(tl.int64) * (KH * KW) + tap, mask=c < channels, other=0.0).to(tl.float32)
    return acc + weight[:, None] * x


@triton.jit
def dwconv_kernel(
    x_ptr, w_ptr, scale_ptr, shift_ptr, residual_ptr, y_ptr, mean_ptr, m2_ptr,
    channels, total, rows, columns, out_rows, out_columns, sc, out_sc, sp, per_split,
    top, left, stride_h, stride_w, dilation_h, dilation_w, slope,
    ACT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, WIDE: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    # One program: BC channels of one split of the outputs, BP a turn (one turn without statistics).  e bytes per input,
    # the taps' overlap from the caches, and e per output.  Statistics are of the sums before they are rounded.
    split, first = tile_start(channels, WIDE, BC)
    c = first + tl.arange(0, BC)
    scale = channel_vector(scale_ptr, c, channels, 1.0)
    shift = channel_vector(shift_ptr, c, channels, 0.0)
    seen = 0.0
    mean = tl.zeros([BC], tl.float32)
    m2 = tl.zeros([BC], tl.float32)
    for start in range(0, per_split, BP):
        begin = split * per_split + start
        j = begin + tl.arange(0, BP)
        mask = (c < channels)[:, None] & (j < total)[None, :]
        line = j // out_columns
        n = line // out_rows
        row = (line - n * out_rows) * stride_h - top
        column = (j - line * out_columns) * stride_w - left
        base = n.to(tl.int64) * channels * rows * columns
        acc = tl.zeros([BC, BP], tl.float32)
        if KH * KW <= UNROLLED:
            for tap in tl.static_range(KH * KW):
                acc = _add_tap(
                    acc, x_ptr, w_ptr, c, base, row, column, mask, channels, rows, columns, sc, sp,
                    dilation_h, dilation_w, tap, KH, KW,
                )  # fmt: skip
        else:
            for tap in range(KH * KW):
                acc = _add_tap(
                    acc, x_ptr, w_ptr, c, base, row, column, mask, channels, rows, columns, sc, sp,
                    dilation_h, dilation_w, tap, KH, KW,
                )  # fmt: skip
        at = offsets(c, j, channels, out_rows * out_columns, out_sc, sp)
        y = activate(acc * scale[:, None] + shift[:, None], slope, ACT)
        if residual_ptr is not None:
            y += tl.load(residual_ptr + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=mask)
        if mean_ptr is not None:
            taken = tl.minimum(tl.maximum(total - begin, 0), BP).to(tl.float32)
            seen, mean, m2 = merge_block(acc, mask, taken, seen, mean, m2)
    if mean_ptr is not None:
        out = split.to(tl.int64) * channels + c
        tl.store(mean_ptr + out, mean, mask=c < channels)
        tl.store(m2_ptr + out, m2, mask=c < channels)


@triton.jit
def _add_gradient_tap(
    acc, du_ptr, w_ptr, c, base, row, column, mask, channels, rows, columns, sc, sp, stride_h, stride_w,
    dilation_h, dilation_w, tap, KH: tl.constexpr, KW: tl.constexpr,
):  # fmt: skip
    h, w = row - (tap // KW) * dilation_h, column - (tap % KW) * dilation_w
    p, q = h // stride_h, w // stride_w
    hit = (h >= 0) & (w >= 0) & (p * stride_h == h) & (q * stride_w == w)
    du = _load(du_ptr, c, base, p, q, mask & hit[None, :], rows, columns, sc, sp)
    weight = tl.load(w_ptr + c.to(tl.int64) * (KH * KW) + tap, mask=c < channels, other=0.0).to(tl.float32)
    return acc + weight[:, None] * du


@triton.jit
def dwconv_grad_input_kernel(
    du_ptr, w_ptr, dx_ptr,
    channels, total, rows, columns, out_rows, out_columns, sc, out_sc, sp,
    top, left, stride_h, stride_w, dilation_h, dilation_w,
    KH: tl.constexpr, KW: tl.constexpr, WIDE: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    # one program: BC channels at BP positions of the input; a tap counts where an output's window puts it there
    tile, first = tile_start(channels, WIDE, BC)
    c = first + tl.arange(0, BC)
    j = tile * BP + tl.arange(0, BP)
    mask = (c < channels)[:, None] & (j < total)[None, :]
    line = j // columns
    n = line // rows
    row = line - n * rows + top
    column = j - line * columns + left
    base = n.to(tl.int64) * channels * out_rows * out_columns
    acc = tl.zeros([BC, BP], tl.float32)
    if KH * KW <= UNROLLED:
        for tap in tl.static_range(KH * KW):
            acc = _add_gradient_tap(
                acc, du_ptr, w_ptr, c, base, row, column, mask, channels, out_rows, out_columns, out_sc, sp,
                stride_h, stride_w, dilation_h, dilation_w, tap, KH, KW,
            )  # fmt: skip
    else:
        for tap in range(KH * KW):
            acc = _add_gradient_tap(
                acc, du_ptr, w_ptr, c, base, row, column, mask, channels, out_rows, out_columns, out_sc, sp,
                stride_h, stride_w, dilation_h, dilation_w, tap, KH, KW,
            )  # fmt: skip
    at = offsets(c, j, channels, rows * columns, sc, sp)
    tl.store(dx_ptr + at, acc.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit
def dwconv_grad_weight_kernel(
    du_ptr, x_ptr, part_ptr,
    channels, total, rows, columns, out_rows, out_columns, sc, out_sc, sp, per_split,
    top, left, stride_h, stride_w, dilation_h, dilation_w,
    KH: tl.constexpr, KW: tl.constexpr, TAPS: tl.constexpr,
    WIDE: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    # one program: partial sums of all taps (TAPS: a power of two) of BC channels over one split, BP outputs a turn
    split, first = tile_start(channels, WIDE, BC)
    c = first + tl.arange(0, BC)
    taps = tl.arange(0, TAPS)
    acc = tl.zeros([BC, TAPS], tl.float32)
    for start in range(0, per_split, BP):
        j = split * per_split + start + tl.arange(0, BP)
        mask = (c < channels)[:, None] & (j < total)[None, :]
        line = j // out_columns
        n = line // out_rows
        row = (line - n * out_rows) * stride_h - top
        column = (j - line * out_columns) * stride_w - left
        base = n.to(tl.int64) * channels * rows * columns
        at = offsets(c, j, channels, out_rows * out_columns, out_sc, sp)
        du = tl.load(du_ptr + at, mask=mask, other=0.0).to(tl.float32)
        for tap in range(KH * KW):
            h, w = row + (tap // KW) * dilation_h, column + (tap % KW) * dilation_w
            x = _load(x_ptr, c, base, h, w, mask, rows, columns, sc, sp)
            acc += tl.where(taps[None, :] == tap, tl.sum(du * x, axis=1)[:, None], 0.0)
    out = (split.to(tl.int64) * channels + c)[:, None] * (KH * KW) + taps[None, :]
    tl.store(part_ptr + out, acc, mask=(c < channels)[:, None] & (taps < KH * KW)[None, :])


class Convolution:
    """The geometry of one call on x (as the caller gave it: its layout counts) and weight; x's batch is not empty."""

    def __init__(self, x: Tensor, weight: Tensor, window: _conv.Window) -> None:
        n, c, h, w = x.shape
        p, q = window.size
        left, right, top, bottom = window.padding
        self.last = _layout.is_channels_last(x)
        self.kernel = tuple(weight.shape[2:])
        reach = [d * k for d, k in zip(window.dilation, self.kernel, strict=True)]
        # rows and columns of the padded input are computed in the width of positions
        sizes = (n * h * w, n * p * q, h + top + bottom + reach[0], w + left + right + reach[1])
        wide = max(*sizes, *window.stride) >= bn_act.WIDE_FROM
        elements = 4096 if _triton.interpreting() else 1024  # an interpreted operation costs the same for any size
        self.output = bn_act.Tiles(n, c, p * q, self.last, elements, 128, wide)
        self.input = bn_act.Tiles(n, c, h * w, self.last, elements, 128, wide)
        sc, out_sc, sp = (1, 1, c) if self.last else (h * w, p * q, 1)
        self.sizes = (h, w, p, q, sc, out_sc, sp)
        self.window = (top, left, *window.stride, *window.dilation)

    @property
    def taps(self) -> dict[str, int]:
        return {"KH": self.kernel[0], "KW": self.kernel[1]}

    def run(
        self,
        x: Tensor,
        weight: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        residual: Tensor | None,
        y: Tensor,
        act: str,
    ) -> None:
        code, slope = _activation.parse(act)
        t = self.output
        dwconv_kernel[t.grid](
            x, weight, scale, shift, residual, y, None, None, t.channels, t.total, *self.sizes, t.bp, *self.window,
            slope, ACT=code, **self.taps, **t.blocks,
        )  # fmt: skip

    def run_with_stats(self, x: Tensor, weight: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """u = the convolution; its mean and biased variance."""
        t = self.output
        splits, per_split = t.split()
        means, m2s = bn_act.new(x, splits, t.channels), bn_act.new(x, splits, t.channels)
        dwconv_kernel[(splits * t.channel_tiles,)](
            x, weight, None, None, None, u, means, m2s, t.channels, t.total, *self.sizes, per_split, *self.window, 0.0,
            ACT=_activation.CODES["identity"], **self.taps, **t.blocks,
        )  # fmt: skip
        return bn_act.total_stats(means, m2s, t.total, per_split)

    def grad_input(self, du: Tensor, weight: Tensor, dx: Tensor) -> None:
        t = self.input
        dwconv_grad_input_kernel[t.grid](
            du, weight, dx, t.channels, t.total, *self.sizes, *self.window, **self.taps, **t.blocks
        )

    def grad_weight(self, du: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        t = self.output
        splits, per_split = t.split()
        parts = bn_act.new(x, splits, *weight.shape)
        dwconv_grad_weight_kernel[(splits * t.channel_tiles,)](
            du, x, parts, t.channels, t.total, *self.sizes, per_split, *self.window,
            **self.taps, TAPS=triton.next_power_of_2(self.kernel[0] * self.kernel[1]), **t.blocks,
        )  # fmt: skip
        return bn_act.sum_parts(parts, torch.empty_like(weight))


Ints = Sequence[int]


def forward(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
    residual: Tensor | None,
) -> Tensor:
    window = _conv.resolve("dwconv_bn_act", x, weight, stride, padding, dilation)
    y = _layout.empty_like(x, _conv.output_shape(x, window))
    if y.numel():
        r = None if residual is None else _layout.dense_as(residual, x)
        parameters = (weight.contiguous(), scale.contiguous(), shift.contiguous())
        Convolution(x, weight, window).run(_layout.dense(x), *parameters, r, y, act)
    return y


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: Ints,
    padding: Ints | None,
    dilation: Ints,
    act: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    window = _conv.resolve("dwconv_bn_act_backward", x, weight, stride, padding, dilation)
    dx = _layout.empty_like(x)
    if not grad.numel():
        return dx.zero_(), weight.new_zeros(weight.shape), scale.new_zeros(scale.shape), shift.new_zeros(shift.shape)
    conv = Convolution(x, weight, window)
    grad, u = _layout.dense_as(grad, x), _layout.empty_like(x, grad.shape)
    x, weight = _layout.dense(x), weight.contiguous()
    conv.run(x, weight, None, None, None, u, "identity")
    du = torch.empty_like(u)
    dscale, dshift = bn_act.apply_grad(grad, u, scale.contiguous(), shift.contiguous(), du, conv.output, act)
    conv.grad_input(du, weight, dx)
    return dx, conv.grad_weight(du, x, weight), dscale.to(scale.dtype), dshift.to(shift.dtype)
