"""Triton kernels of squeeze-and-excitation: sums over pixels, two small layers and their transposes, scaling.

A tensor is addressed by its channel and pixel strides, so that each kernel serves both layouts; one of the two strides is 1,
which the compiler sees.  Every sum has a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cnnkernels import _activation, _layout
from cnnkernels.ops.triton.activation import activate, activate_grad


@triton.jit
def _image(ptr, n, channels, pixels):
    return ptr + n.to(tl.int64) * channels * pixels


@triton.jit
def squeeze_excite_sum_kernel(
    x_ptr,
    dy_ptr,
    sum_ptr,
    dot_ptr,
    channels,
    pixels,
    sc,
    sp,
    per_strip,
    DOT: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
):
    # one program: BC channels of one strip of one image, BP pixels a turn; e bytes per element (2e with DOT)
    n = tl.program_id(0)
    strip = tl.program_id(2)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    s = tl.zeros([BC], tl.float32)
    d = tl.zeros([BC], tl.float32)
    for start in range(0, per_strip, BP):
        p = strip * per_strip + start + tl.arange(0, BP)
        mask = (c < channels)[:, None] & ((start + tl.arange(0, BP) < per_strip) & (p < pixels))[None, :]
        at = c.to(tl.int64)[:, None] * sc + p.to(tl.int64)[None, :] * sp
        x = tl.load(_image(x_ptr, n, channels, pixels) + at, mask=mask, other=0.0).to(tl.float32)
        s += tl.sum(x, axis=1)
        if DOT:
            dy = tl.load(_image(dy_ptr, n, channels, pixels) + at, mask=mask, other=0.0).to(tl.float32)
            d += tl.sum(x * dy, axis=1)
    out = (n * tl.num_programs(2) + strip).to(tl.int64) * channels + c
    tl.store(sum_ptr + out, s, mask=c < channels)
    if DOT:
        tl.store(dot_ptr + out, d, mask=c < channels)


@triton.jit
def squeeze_excite_total_kernel(part_ptr, out_ptr, channels, strips, scale, BC: tl.constexpr):
    # one program: BC channels of one image, strips added in order
    n = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    s = tl.zeros([BC], tl.float32)
    for k in range(strips):
        s += tl.load(part_ptr + (n * strips + k) * channels + c, mask=c < channels, other=0.0)
    tl.store(out_ptr + n * channels + c, s * scale, mask=c < channels)


@triton.jit
def squeeze_excite_layer_kernel(
    w_ptr,
    b_ptr,
    in_ptr,
    out_ptr,
    rows,
    size,
    slope,
    ACT: tl.constexpr,
    BIAS: tl.constexpr,
    BR: tl.constexpr,
    BK: tl.constexpr,
):
    # out[n, row] = b[row] + sum_k w[row, k] * act(in[n, k]); one program: BR rows of one image
    n = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * BR + tl.arange(0, BR)
    acc = tl.zeros([BR], tl.float32)
    for start in range(0, size, BK):
        k = start + tl.arange(0, BK)
        v = activate(tl.load(in_ptr + n * size + k, mask=k < size, other=0.0), slope, ACT)
        mask = (r < rows)[:, None] & (k < size)[None, :]
        w = tl.load(w_ptr + r.to(tl.int64)[:, None] * size + k[None, :], mask=mask, other=0.0).to(tl.float32)
        acc += tl.sum(w * v[None, :], axis=1)
    if BIAS:
        acc += tl.load(b_ptr + r, mask=r < rows, other=0.0).to(tl.float32)
    tl.store(out_ptr + n * rows + r, acc, mask=r < rows)


@triton.jit
def squeeze_excite_layer_transposed_kernel(
    w_ptr,
    in_ptr,
    at_ptr,
    out_ptr,
    rows,
    size,
    scale,
    slope,
    ACT: tl.constexpr,
    IN_GRAD: tl.constexpr,
    BR: tl.constexpr,
    BK: tl.constexpr,
):
    # out[n, k] = scale * act'(at[n, k]) * sum_row in[n, row] * w[row, k]; one program: BK columns of one image
    n = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    acc = tl.zeros([BK], tl.float32)
    for start in range(0, rows, BR):
        r = start + tl.arange(0, BR)
        v = tl.load(in_ptr + n * rows + r, mask=r < rows, other=0.0)
        mask = (r < rows)[:, None] & (k < size)[None, :]
        w = tl.load(w_ptr + r.to(tl.int64)[:, None] * size + k[None, :], mask=mask, other=0.0).to(tl.float32)
        acc += tl.sum(w * v[:, None], axis=0)
    if IN_GRAD:
        acc *= activate_grad(tl.load(at_ptr + n * size + k, mask=k < size, other=0.0), slope, ACT)
    tl.store(out_ptr + n * size + k, acc * scale, mask=k < size)


@triton.jit
def squeeze_excite_gate_gradient_kernel(dot_ptr, gate_ptr, n, GATE: tl.constexpr, BLOCK: tl.constexpr):
    # dot *= gate'(gate), in place
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    g = activate_grad(tl.load(gate_ptr + i, mask=i < n, other=0.0), 0.0, GATE)
    tl.store(dot_ptr + i, tl.load(dot_ptr + i, mask=i < n, other=0.0) * g, mask=i < n)


@triton.jit
def squeeze_excite_weight_gradient_kernel(
    d_ptr, in_ptr, dw_ptr, db_ptr, images, rows, size, slope, ACT: tl.constexpr, BR: tl.constexpr, BK: tl.constexpr
):
    # dw[row, k] = sum_n d[n, row] * act(in[n, k]), db[row] = sum_n d[n, row]; one program: BR x BK weights, all images
    r = tl.program_id(0) * BR + tl.arange(0, BR)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    w = tl.zeros([BR, BK], tl.float32)
    b = tl.zeros([BR], tl.float32)
    for _ in range(images):
        d = tl.load(d_ptr + r, mask=r < rows, other=0.0)
        v = activate(tl.load(in_ptr + k, mask=k < size, other=0.0), slope, ACT)
        d_ptr += rows
        in_ptr += size
        w += d[:, None] * v[None, :]
        b += d
    mask = (r < rows)[:, None] & (k < size)[None, :]
    tl.store(dw_ptr + r.to(tl.int64)[:, None] * size + k[None, :], w.to(dw_ptr.dtype.element_ty), mask=mask)
    tl.store(db_ptr + r, b.to(db_ptr.dtype.element_ty), mask=(r < rows) & (tl.program_id(1) == 0))


@triton.jit
def squeeze_excite_scale_kernel(
    in_ptr,
    gate_ptr,
    shift_ptr,
    out_ptr,
    channels,
    pixels,
    sc,
    sp,
    SHIFT: tl.constexpr,
    GATE: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
):
    # out = in * gate(gate) (+ shift); one program: BC channels of BP pixels of one image, 2e bytes per element
    n = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    p = tl.program_id(2) * BP + tl.arange(0, BP)
    vector = n.to(tl.int64) * channels + c
    g = activate(tl.load(gate_ptr + vector, mask=c < channels, other=0.0), 0.0, GATE)
    mask = (c < channels)[:, None] & (p < pixels)[None, :]
    at = c.to(tl.int64)[:, None] * sc + p.to(tl.int64)[None, :] * sp
    v = tl.load(_image(in_ptr, n, channels, pixels) + at, mask=mask, other=0.0).to(tl.float32) * g[:, None]
    if SHIFT:
        v += tl.load(shift_ptr + vector, mask=c < channels, other=0.0)[:, None]
    tl.store(_image(out_ptr, n, channels, pixels) + at, v.to(out_ptr.dtype.element_ty), mask=mask)


class _Block:
    """The sizes of one call, and the steps that forward and backward share."""

    def __init__(self, x: Tensor, w1: Tensor, act: str, gate: str, last: bool) -> None:
        self.n, self.c, h, w = x.shape
        self.p, self.r = h * w, w1.shape[0]
        self.strides = (1, self.c) if last else (self.p, 1)
        size = triton.next_power_of_2
        # tiles of about 2048 elements, long in the direction of the unit stride
        self.bc = min(size(self.c), 64) if last else max(1, 2048 // min(size(self.p), 1024))
        self.bc = min(self.bc, size(self.c))
        self.bp = min(size(self.p), max(1, 2048 // self.bc))
        self.act, self.slope = _activation.parse(act)
        self.gate = _activation.CODES[gate]
        self.device = x.device

    def new(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self.device)

    def sums(self, x: Tensor, dy: Tensor | None) -> tuple[Tensor, Tensor]:
        """Means of x and, with dy, sums of dy * x: [N, C]."""
        tiles = triton.cdiv(self.c, self.bc)
        strips = max(1, min(triton.cdiv(528, self.n * tiles), self.p // 256))
        parts = [self.new(self.n, strips, self.c) for _ in range(1 if dy is None else 2)]
        squeeze_excite_sum_kernel[(self.n, tiles, strips)](
            x, x if dy is None else dy, parts[0], parts[-1], self.c, self.p, *self.strides, triton.cdiv(self.p, strips),
            DOT=dy is not None, BC=self.bc, BP=self.bp,
        )  # fmt: skip
        totals = [self.new(self.n, self.c) for _ in parts]
        for part, total, scale in zip(parts, totals, (1.0 / self.p, 1.0), strict=False):
            block = min(triton.next_power_of_2(self.c), 1024)
            grid = (self.n, triton.cdiv(self.c, block))
            squeeze_excite_total_kernel[grid](part, total, self.c, strips, scale, BC=block)
        return totals[0], totals[-1]

    def layer(self, w: Tensor, b: Tensor | None, v: Tensor, act: int, rows: int) -> Tensor:
        size, out = v.shape[1], self.new(self.n, rows)
        bk = min(triton.next_power_of_2(size), 128)
        br = min(triton.next_power_of_2(rows), max(1, 2048 // bk))
        squeeze_excite_layer_kernel[(self.n, triton.cdiv(rows, br))](
            w, w if b is None else b, v, out, rows, size, self.slope, ACT=act, BIAS=b is not None, BR=br, BK=bk
        )
        return out

    def layer_transposed(self, w: Tensor, v: Tensor, at: Tensor | None, size: int, scale: float) -> Tensor:
        rows, out = v.shape[1], self.new(self.n, size)
        bk = min(triton.next_power_of_2(size), 64)
        br = min(triton.next_power_of_2(rows), 32)
        squeeze_excite_layer_transposed_kernel[(self.n, triton.cdiv(size, bk))](
            w, v, out if at is None else at, out, rows, size, scale, self.slope, ACT=self.act, IN_GRAD=at is not None,
            BR=br, BK=bk,
        )  # fmt: skip
        return out

    def weight_gradient(self, d: Tensor, v: Tensor, act: int, w: Tensor) -> tuple[Tensor, Tensor]:
        rows, size = w.shape[:2]
        dw, db = w.new_empty(w.shape), w.new_empty(rows)
        br, bk = min(triton.next_power_of_2(rows), 32), min(triton.next_power_of_2(size), 64)
        squeeze_excite_weight_gradient_kernel[(triton.cdiv(rows, br), triton.cdiv(size, bk))](
            d, v, dw, db, self.n, rows, size, self.slope, ACT=act, BR=br, BK=bk
        )
        return dw, db

    def scale(self, v: Tensor, gate: Tensor, shift: Tensor | None, out: Tensor) -> None:
        grid = (self.n, triton.cdiv(self.c, self.bc), triton.cdiv(self.p, self.bp))
        squeeze_excite_scale_kernel[grid](
            v, gate, gate if shift is None else shift, out, self.c, self.p, *self.strides, SHIFT=shift is not None,
            GATE=self.gate, BC=self.bc, BP=self.bp,
        )  # fmt: skip


IDENTITY = _activation.CODES["identity"]


def forward(x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, act: str, gate: str) -> Tensor:
    y = _layout.empty_like(x)
    if not x.numel():
        return y
    block = _Block(x, w1, act, gate, _layout.is_channels_last(x))
    x, w1, w2 = _layout.dense(x), w1.contiguous(), w2.contiguous()
    b1, b2 = (None if b is None else b.contiguous() for b in (b1, b2))
    mean, _ = block.sums(x, None)
    hidden = block.layer(w1, b1, mean, IDENTITY, block.r)
    block.scale(x, block.layer(w2, b2, hidden, block.act, block.c), None, y)
    return y


def backward(
    grad: Tensor, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, act: str, gate: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dx = _layout.empty_like(x)
    if not x.numel():
        zeros = [x.new_zeros(w.shape) for w in (w1, w1[:, :1], w2, w2[:, :1])]
        return dx, zeros[0], zeros[1].flatten(), zeros[2], zeros[3].flatten()
    block = _Block(x, w1, act, gate, _layout.is_channels_last(x))
    grad, x, w1, w2 = _layout.dense_as(grad, x), _layout.dense(x), w1.contiguous(), w2.contiguous()
    b1, b2 = (None if b is None else b.contiguous() for b in (b1, b2))
    mean, dgate = block.sums(x, grad)
    hidden = block.layer(w1, b1, mean, IDENTITY, block.r)
    pre = block.layer(w2, b2, hidden, block.act, block.c)
    n = pre.numel()
    squeeze_excite_gate_gradient_kernel[(triton.cdiv(n, 1024),)](dgate, pre, n, GATE=block.gate, BLOCK=1024)
    dhidden = block.layer_transposed(w2, dgate, hidden, block.r, 1.0)
    dmean = block.layer_transposed(w1, dhidden, None, block.c, 1.0 / block.p)
    block.scale(grad, pre, dmean, dx)
    return dx, *block.weight_gradient(dhidden, mean, IDENTITY, w1), *block.weight_gradient(dgate, hidden, block.act, w2)
