"""Triton kernels of batch norm with an activation: given or batch statistics, forward and backward.

A dense tensor is [N, C, pixels], addressed by its channel and pixel strides, so that each kernel serves both layouts;
one of the two strides is 1, which the compiler sees.  A position j counts pixels over the whole batch.  Sums over a
channel go in two stages, partial sums per split and then their total, each in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cnnkernels import _activation, _layout
from cnnkernels.ops.triton.activation import activate, activate_grad

# ---- device functions that the depthwise convolutions share ----------------------------------------------------------


@triton.jit
def tile_start(channels, WIDE: tl.constexpr, BC: tl.constexpr):
    """(number of this program's tile of positions or split, first channel)."""
    pid = tl.program_id(0)
    tiles = tl.cdiv(channels, BC)
    part = pid // tiles
    first_channel = (pid - part * tiles) * BC
    return part.to(tl.int64) if WIDE else part, first_channel


@triton.jit
def offsets(c, j, channels, pixels, sc, sp):
    """Offsets [BC, BP] of channels c at positions j."""
    n = j // pixels
    at = n.to(tl.int64) * channels * pixels + (j - n * pixels).to(tl.int64) * sp
    return c.to(tl.int64)[:, None] * sc + at[None, :]


@triton.jit
def channel_vector(ptr, c, channels, default: tl.constexpr):
    """ptr[c] in fp32; the default where there is no such parameter, and beyond the last channel."""
    if ptr is None:
        v = tl.full(c.shape, default, tl.float32)
    else:
        v = tl.load(ptr + c, mask=c < channels, other=default).to(tl.float32)
    return v


@triton.jit
def normaliser(mean_ptr, var_ptr, c, channels, eps):
    """(mean, 1 / std) of channels c; (0, 1) without statistics."""
    mean = channel_vector(mean_ptr, c, channels, 0.0)
    if var_ptr is None:
        invstd = tl.full(c.shape, 1.0, tl.float32)
    else:
        invstd = 1.0 / tl.sqrt(channel_vector(var_ptr, c, channels, 1.0) + eps)
    return mean, invstd


@triton.jit
def merge_block(v, inside, taken, seen, mean, m2):
    """Adds the ``taken`` values v[:, inside] to (seen, mean, sum of squared deviations) as Chan et al. do (1979).

    The block's own deviations are from its own mean, so nothing cancels when |mean| is far larger than the deviation.
    """
    size = seen + taken
    block_mean = tl.sum(tl.where(inside, v, 0.0), axis=1) / tl.maximum(taken, 1.0)
    d = tl.where(inside, v - block_mean[:, None], 0.0)
    delta = block_mean - mean
    mean = mean + delta * (taken / size)
    m2 = m2 + tl.sum(d * d, axis=1) + delta * delta * (seen * (taken / size))
    return size, mean, m2


# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def bn_act_kernel(
    x_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, residual_ptr, y_ptr, channels, total, pixels, sc, sp, eps, slope,
    ACT: tl.constexpr, WIDE: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    # one program: BC channels at BP positions; 2e bytes per element, 3e with a residual
    tile, first = tile_start(channels, WIDE, BC)
    c = first + tl.arange(0, BC)
    j = tile * BP + tl.arange(0, BP)
    mask = (c < channels)[:, None] & (j < total)[None, :]
    at = offsets(c, j, channels, pixels, sc, sp)
    mean, invstd = normaliser(mean_ptr, var_ptr, c, channels, eps)
    scale = invstd * channel_vector(weight_ptr, c, channels, 1.0)
    bias = channel_vector(bias_ptr, c, channels, 0.0)
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    y = activate((x - mean[:, None]) * scale[:, None] + bias[:, None], slope, ACT)
    if residual_ptr is not None:
        y += tl.load(residual_ptr + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def bn_act_backward_kernel(
    grad_ptr, x_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, dx_ptr, dot_ptr, sum_ptr,
    channels, total, pixels, sc, sp, per_split, eps, slope,
    ACT: tl.constexpr, WIDE: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    # One program: BC channels of one split, BP positions a turn.  g = grad * act'(.); sums of g * xhat and of g.
    # With given statistics dx = g * scale is written on the way: 3e bytes per element; else 2e.
    split, first = tile_start(channels, WIDE, BC)
    c = first + tl.arange(0, BC)
    mean, invstd = normaliser(mean_ptr, var_ptr, c, channels, eps)
    weight = channel_vector(weight_ptr, c, channels, 1.0)
    bias = channel_vector(bias_ptr, c, channels, 0.0)
    dot = tl.zeros([BC], tl.float32)
    s = tl.zeros([BC], tl.float32)
    for start in range(0, per_split, BP):
        j = split * per_split + start + tl.arange(0, BP)
        mask = (c < channels)[:, None] & (j < total)[None, :]
        at = offsets(c, j, channels, pixels, sc, sp)
        x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
        g = tl.load(grad_ptr + at, mask=mask, other=0.0).to(tl.float32)
        xhat = (x - mean[:, None]) * invstd[:, None]
        g *= activate_grad(xhat * weight[:, None] + bias[:, None], slope, ACT)
        dot += tl.sum(g * xhat, axis=1)
        s += tl.sum(g, axis=1)
        if dx_ptr is not None:
            tl.store(dx_ptr + at, (g * weight[:, None]).to(dx_ptr.dtype.element_ty), mask=mask)
    out = split.to(tl.int64) * channels + c
    tl.store(dot_ptr + out, dot, mask=c < channels)
    tl.store(sum_ptr + out, s, mask=c < channels)


@triton.jit
def bn_act_train_dx_kernel(
    grad_ptr, x_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, dweight_ptr, dbias_ptr, dx_ptr,
    channels, total, pixels, sc, sp, eps, slope,
    ACT: tl.constexpr, WIDE: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    # dx = scale * (g - mean(g) - xhat * mean(g * xhat)); one program: BC channels at BP positions, 3e bytes per element
    tile, first = tile_start(channels, WIDE, BC)
    c = first + tl.arange(0, BC)
    j = tile * BP + tl.arange(0, BP)
    mask = (c < channels)[:, None] & (j < total)[None, :]
    at = offsets(c, j, channels, pixels, sc, sp)
    mean, invstd = normaliser(mean_ptr, var_ptr, c, channels, eps)
    weight = channel_vector(weight_ptr, c, channels, 1.0)
    bias = channel_vector(bias_ptr, c, channels, 0.0)
    mean_dot = channel_vector(dweight_ptr, c, channels, 0.0) / total
    mean_g = channel_vector(dbias_ptr, c, channels, 0.0) / total
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(grad_ptr + at, mask=mask, other=0.0).to(tl.float32)
    xhat = (x - mean[:, None]) * invstd[:, None]
    g *= activate_grad(xhat * weight[:, None] + bias[:, None], slope, ACT)
    dx = (weight * invstd)[:, None] * (g - mean_g[:, None] - xhat * mean_dot[:, None])
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit
def channel_sum_kernel(part_ptr, out_ptr, channels, splits, BC: tl.constexpr, BS: tl.constexpr):
    # one program: all splits of BC channels
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    k = tl.arange(0, BS)
    mask = (c < channels)[:, None] & (k < splits)[None, :]
    parts = tl.load(part_ptr + k.to(tl.int64)[None, :] * channels + c[:, None], mask=mask, other=0.0)
    tl.store(out_ptr + c, tl.sum(parts, axis=1).to(out_ptr.dtype.element_ty), mask=c < channels)


@triton.jit
def channel_stats_kernel(
    x_ptr, mean_ptr, m2_ptr, channels, total, pixels, sc, sp, per_split,
    WIDE: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    # one program: mean and squared deviations of BC channels of one split, BP positions a turn; e bytes per element
    split, first = tile_start(channels, WIDE, BC)
    c = first + tl.arange(0, BC)
    seen = 0.0
    mean = tl.zeros([BC], tl.float32)
    m2 = tl.zeros([BC], tl.float32)
    for start in range(0, per_split, BP):
        begin = split * per_split + start
        j = begin + tl.arange(0, BP)
        inside = (c < channels)[:, None] & (j < total)[None, :]
        x = tl.load(x_ptr + offsets(c, j, channels, pixels, sc, sp), mask=inside, other=0.0).to(tl.float32)
        taken = tl.minimum(tl.maximum(total - begin, 0), BP).to(tl.float32)
        seen, mean, m2 = merge_block(x, inside, taken, seen, mean, m2)
    out = split.to(tl.int64) * channels + c
    tl.store(mean_ptr + out, mean, mask=c < channels)
    tl.store(m2_ptr + out, m2, mask=c < channels)


@triton.jit
def channel_stats_total_kernel(
    part_mean_ptr, part_m2_ptr, mean_ptr, var_ptr, channels, total, per_split, splits,
    BC: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    # one program: all splits of BC channels; means are averaged as differences from the first split's
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    k = tl.arange(0, BS).to(tl.int64)
    mask = (c < channels)[:, None] & (k < splits)[None, :]
    at = k[None, :] * channels + c[:, None]
    begin = tl.minimum(k * per_split, total)
    share = (tl.minimum(begin + per_split, total) - begin).to(tl.float32) / total
    origin = tl.load(part_mean_ptr + c, mask=c < channels, other=0.0)
    means = tl.where(mask, tl.load(part_mean_ptr + at, mask=mask, other=0.0) - origin[:, None], 0.0)
    mean = tl.sum(means * share[None, :], axis=1)
    d = means - mean[:, None]
    m2 = tl.load(part_m2_ptr + at, mask=mask, other=0.0)
    var = tl.sum(m2, axis=1) / total + tl.sum(d * d * share[None, :], axis=1)
    tl.store(mean_ptr + c, origin + mean, mask=c < channels)
    tl.store(var_ptr + c, var, mask=c < channels)


# ---- launches --------------------------------------------------------------------------------------------------------

WIDE_FROM = 2**30  # positions from here on are counted in 64 bits; offsets always are
MAX_SPLITS = 1024  # the second stage holds all of a channel's partial sums
PROGRAMS = 528  # four for each of an H100's 132 multiprocessors


def new(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


class Tiles:
    """How a dense [N, C, pixels] tensor is cut: tiles of ``elements``, long along the unit stride.

    row: the most positions of a tile where pixels have the unit stride.
    """

    def __init__(
        self, n: int, c: int, pixels: int, last: bool, elements: int = 2048, row: int = 1024, wide: bool = False
    ) -> None:
        self.channels, self.pixels, self.total = c, pixels, n * pixels
        last = last or pixels == 1
        self.strides = (1, c) if last else (pixels, 1)
        size = triton.next_power_of_2
        self.bc = min(size(c), 64) if last else min(size(c), max(1, elements // min(size(self.total), row)))
        self.bp = min(size(self.total), elements // self.bc)
        self.channel_tiles = triton.cdiv(c, self.bc)
        self.wide = wide or self.total >= WIDE_FROM
        self.blocks = {"WIDE": self.wide, "BC": self.bc, "BP": self.bp}

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        return self.channels, self.total, self.pixels, *self.strides

    @property
    def grid(self) -> tuple[int]:
        return (self.channel_tiles * triton.cdiv(self.total, self.bp),)

    def split(self) -> tuple[int, int]:
        """(splits of a channel's positions, positions per split): enough programs to fill a GPU, whole tiles each."""
        turns = triton.cdiv(self.total, self.bp)
        splits = max(1, min(triton.cdiv(PROGRAMS, self.channel_tiles), MAX_SPLITS, turns))
        per_split = triton.cdiv(turns, splits) * self.bp
        return triton.cdiv(self.total, per_split), per_split


def sum_parts(parts: Tensor, out: Tensor) -> Tensor:
    """out[...] = the sum over parts' first dimension."""
    splits, channels = parts.shape[0], out.numel()
    bs = triton.next_power_of_2(splits)
    bc = min(triton.next_power_of_2(channels), max(1, 2048 // bs))
    channel_sum_kernel[(triton.cdiv(channels, bc),)](parts, out, channels, splits, BC=bc, BS=bs)
    return out


def total_stats(means: Tensor, m2s: Tensor, total: int, per_split: int) -> tuple[Tensor, Tensor]:
    """(mean, biased variance) [C] of the splits' means and sums of squared deviations [splits, C]."""
    splits, channels = means.shape
    mean, var = new(means, channels), new(means, channels)
    bs = triton.next_power_of_2(splits)
    bc = min(triton.next_power_of_2(channels), max(1, 2048 // bs))
    channel_stats_total_kernel[(triton.cdiv(channels, bc),)](
        means, m2s, mean, var, channels, total, per_split, splits, BC=bc, BS=bs
    )
    return mean, var


def _stats(x: Tensor, tiles: Tiles) -> tuple[Tensor, Tensor]:
    splits, per_split = tiles.split()
    means, m2s = new(x, splits, tiles.channels), new(x, splits, tiles.channels)
    channel_stats_kernel[(splits * tiles.channel_tiles,)](x, means, m2s, *tiles.shape, per_split, **tiles.blocks)
    return total_stats(means, m2s, tiles.total, per_split)


def apply(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    y: Tensor,
    tiles: Tiles,
    eps: float,
    act: str,
) -> None:
    """y = act((x - mean) / sqrt(var + eps) * weight + bias) + residual; None is left out.  All dense, not empty."""
    code, slope = _activation.parse(act)
    bn_act_kernel[tiles.grid](
        x, mean, var, weight, bias, residual, y, *tiles.shape, eps, slope, ACT=code, **tiles.blocks
    )


def apply_grad(
    grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor, dx: Tensor, tiles: Tiles, act: str
) -> tuple[Tensor, Tensor]:
    """Writes dx of ``apply`` with a given scale and shift; (dscale, dshift) in fp32."""
    return _reduce(grad, x, None, None, scale, shift, dx, tiles, 0.0, act)


def apply_train_grad(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dx: Tensor,
    tiles: Tiles,
    eps: float,
    act: str,
) -> tuple[Tensor, Tensor]:
    """Writes dx of ``apply`` with x's own statistics; (dweight, dbias) in fp32."""
    code, slope = _activation.parse(act)
    dweight, dbias = _reduce(grad, x, mean, var, weight, bias, None, tiles, eps, act)
    bn_act_train_dx_kernel[tiles.grid](
        grad, x, mean, var, weight, bias, dweight, dbias, dx, *tiles.shape, eps, slope, ACT=code, **tiles.blocks
    )
    return dweight, dbias


def _reduce(
    grad: Tensor,
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    dx: Tensor | None,
    tiles: Tiles,
    eps: float,
    act: str,
) -> tuple[Tensor, Tensor]:
    code, slope = _activation.parse(act)
    splits, per_split = tiles.split()
    dots, sums = new(x, splits, tiles.channels), new(x, splits, tiles.channels)
    bn_act_backward_kernel[(splits * tiles.channel_tiles,)](
        grad, x, mean, var, weight, bias, dx, dots, sums, *tiles.shape, per_split, eps, slope, ACT=code, **tiles.blocks
    )
    return sum_parts(dots, new(x, tiles.channels)), sum_parts(sums, new(x, tiles.channels))


def contiguous(v: Tensor | None) -> Tensor | None:
    return None if v is None else v.contiguous()


def _tiles(x: Tensor) -> Tiles:
    n, c = x.shape[:2]
    return Tiles(n, c, x.numel() // (n * c), _layout.is_channels_last(x))


def channel_stats(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel of [N, C, ...], in fp32; zeros for an empty batch."""
    if not x.numel():
        return torch.zeros(x.shape[1], device=x.device), torch.zeros(x.shape[1], device=x.device)
    return _stats(_layout.dense(x), _tiles(x))


def forward(x: Tensor, scale: Tensor, shift: Tensor, act: str, residual: Tensor | None) -> Tensor:
    y = _layout.empty_like(x)
    if x.numel():
        r = None if residual is None else _layout.dense_as(residual, x)
        apply(_layout.dense(x), None, None, scale.contiguous(), shift.contiguous(), r, y, _tiles(x), 0.0, act)
    return y


def backward(grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor, act: str) -> tuple[Tensor, Tensor, Tensor]:
    dx = _layout.empty_like(x)
    if not x.numel():
        return dx, scale.new_zeros(scale.shape), shift.new_zeros(shift.shape)
    grad, tiles = _layout.dense_as(grad, x), _tiles(x)
    dscale, dshift = apply_grad(grad, _layout.dense(x), scale.contiguous(), shift.contiguous(), dx, tiles, act)
    return dx, dscale.to(scale.dtype), dshift.to(shift.dtype)


def train_forward(
    x: Tensor, bn_weight: Tensor | None, bn_bias: Tensor | None, eps: float, act: str, residual: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    y = _layout.empty_like(x)
    if not x.numel():
        return y, *channel_stats(x)
    r = None if residual is None else _layout.dense_as(residual, x)
    dense, tiles = _layout.dense(x), _tiles(x)
    mean, var = _stats(dense, tiles)
    apply(dense, mean, var, contiguous(bn_weight), contiguous(bn_bias), r, y, tiles, eps, act)
    return y, mean, var


def train_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
    act: str,
) -> tuple[Tensor, Tensor, Tensor]:
    dx = _layout.empty_like(x)
    if not x.numel():
        return dx, *channel_stats(x)
    vectors = (mean.contiguous(), var.contiguous(), contiguous(bn_weight), contiguous(bn_bias))
    dweight, dbias = apply_train_grad(_layout.dense_as(grad, x), _layout.dense(x), *vectors, dx, _tiles(x), eps, act)
    return dx, dweight, dbias
