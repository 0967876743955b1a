"""Triton kernel of the 1x1 convolution: a matrix product with the gate before it and all that follows behind it.

Tensors are addressed by channel and pixel strides, as in bn_act.py: one kernel serves both layouts.  A position j counts
pixels over the whole batch.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from cnnkernels import _activation, _layout, _triton
from cnnkernels.ops.triton.activation import activate
from cnnkernels.ops.triton.bn_act import WIDE_FROM, channel_vector, offsets, tile_start


@triton.jit
def _dot(w, x, acc, EMULATED: tl.constexpr):
    # The interpreter's dot of bf16 is wrong, that of fp32 right.
    if EMULATED:
        w = w.to(tl.float32)
        x = x.to(tl.float32)
    return tl.dot(w, x, acc, input_precision="ieee")


@triton.jit
def pointwise_kernel(
    x_ptr, w_ptr, scale_ptr, shift_ptr, gate_ptr, residual_ptr, y_ptr,
    channels, outputs, total, pixels, sc, sp, out_sc, out_sp, slope,
    ACT: tl.constexpr, WIDE: tl.constexpr, EMULATED: tl.constexpr,
    BK: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    # One program: BK output channels at BP positions, BC input channels a turn; neighbouring programs share positions.
    # e bytes per input and output, x from DRAM once and from the L2 cache outputs / BK times.
    tile, first = tile_start(outputs, WIDE, BK)
    k = first + tl.arange(0, BK)
    j = tile * BP + tl.arange(0, BP)
    image = (j // pixels).to(tl.int64) * channels
    acc = tl.zeros([BK, BP], tl.float32)
    for start in range(0, channels, BC):
        c = start + tl.arange(0, BC)
        mask = (c < channels)[:, None] & (j < total)[None, :]
        x = tl.load(x_ptr + offsets(c, j, channels, pixels, sc, sp), mask=mask, other=0.0)
        w_mask = (k < outputs)[:, None] & (c < channels)[None, :]
        w = tl.load(w_ptr + k.to(tl.int64)[:, None] * channels + c[None, :], mask=w_mask, other=0.0)
        if gate_ptr is not None:
            gate = tl.load(gate_ptr + image[None, :] + c[:, None], mask=mask, other=0.0)
            product = x.to(tl.float32) * gate.to(tl.float32)
            x = product.to(w.dtype)
            if w.dtype != tl.float32:  # halves keep the whole product: what rounding left over is an operand of its own
                left = product - x.to(tl.float32)
                rest = tl.where(left - left == 0.0, left, 0.0).to(w.dtype)  # beside an inf or NaN: nothing
                acc = _dot(w, rest, acc, EMULATED)
        acc = _dot(w, x, acc, EMULATED)
    scale = channel_vector(scale_ptr, k, outputs, 1.0)
    shift = channel_vector(shift_ptr, k, outputs, 0.0)
    y = activate(acc * scale[:, None] + shift[:, None], slope, ACT)
    mask = (k < outputs)[:, None] & (j < total)[None, :]
    at = offsets(k, j, outputs, pixels, out_sc, out_sp)
    if residual_ptr is not None:
        y += tl.load(residual_ptr + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=mask)


def blocks(x: Tensor, outputs: int) -> dict[str, int]:
    """Tile sizes, at least the 16 that tensor cores take.

    Twice the positions spill registers in NCHW, twice the channels in fp32 with a gate (on sm_90, with 4 warps).
    """
    n, c, h, w = x.shape
    size = triton.next_power_of_2
    most = (64, 1024, 128) if _triton.interpreting() else (64, 64, 64 // x.element_size())
    return {
        name: min(max(size(length), 16), limit)
        for name, length, limit in zip(("BK", "BP", "BC"), (outputs, n * h * w, c), most, strict=True)
    }


def forward(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    act: str,
    gate: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    n, c, h, w = x.shape
    outputs, pixels, total = weight.shape[0], h * w, n * h * w
    y = _layout.empty_like(x, [n, outputs, h, w])
    if not total:
        return y
    strides = (1, c, 1, outputs) if _layout.is_channels_last(x) else (pixels, 1, pixels, 1)
    code, slope = _activation.parse(act)
    tile = blocks(x, outputs)
    grid = (triton.cdiv(total, tile["BP"]) * triton.cdiv(outputs, tile["BK"]),)
    pointwise_kernel[grid](
        _layout.dense(x), weight.contiguous(), scale.contiguous(), shift.contiguous(),
        None if gate is None else gate.contiguous(), None if residual is None else _layout.dense_as(residual, x), y,
        c, outputs, total, pixels, *strides, slope,
        ACT=code, WIDE=total >= WIDE_FROM, EMULATED=_triton.interpreting(), **tile,
    )  # fmt: skip
    return y
