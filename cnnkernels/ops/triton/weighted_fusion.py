"""Triton kernels of the weighted fusion of two to four maps, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cnnkernels import _activation, _layout
from cnnkernels.ops.triton.activation import activate, activate_grad

BLOCK = 1024
PROGRAMS = 1024  # of the backward pass at most: one more program adds up what they found


@triton.jit
def _weight(weights_ptr, k, MAPS: tl.constexpr):
    """max(w_k, 0), NaN for NaN; 0 beyond the last map."""
    w = tl.load(weights_ptr + k, mask=k < MAPS, other=0.0).to(tl.float32)
    return tl.where(w < 0.0, 0.0, w)


@triton.jit
def _total(weights_ptr, eps, MAPS: tl.constexpr):
    total = eps + _weight(weights_ptr, 0, MAPS) + _weight(weights_ptr, 1, MAPS)
    return total + _weight(weights_ptr, 2, MAPS) + _weight(weights_ptr, 3, MAPS)


@triton.jit
def _load(ptr, i, mask):
    if ptr is None:
        v = tl.zeros(i.shape, tl.float32)
    else:
        v = tl.load(ptr + i, mask=mask, other=0.0).to(tl.float32)
    return v


@triton.jit
def weighted_fusion_kernel(
    x0_ptr, x1_ptr, x2_ptr, x3_ptr, weights_ptr, y_ptr, n, eps, slope,
    MAPS: tl.constexpr, ACT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # one program: BLOCK contiguous elements, (maps + 1)e bytes each
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    total = _total(weights_ptr, eps, MAPS)
    p = _load(x0_ptr, i, mask) * (_weight(weights_ptr, 0, MAPS) / total)
    p += _load(x1_ptr, i, mask) * (_weight(weights_ptr, 1, MAPS) / total)
    if MAPS > 2:
        p += _load(x2_ptr, i, mask) * (_weight(weights_ptr, 2, MAPS) / total)
    if MAPS > 3:
        p += _load(x3_ptr, i, mask) * (_weight(weights_ptr, 3, MAPS) / total)
    tl.store(y_ptr + i, activate(p, slope, ACT).to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def weighted_fusion_backward_kernel(
    grad_ptr, x0_ptr, x1_ptr, x2_ptr, x3_ptr, weights_ptr, dx0_ptr, dx1_ptr, dx2_ptr, dx3_ptr, parts_ptr,
    n, per_program, eps, slope,
    MAPS: tl.constexpr, ACT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # One program: per_program contiguous elements, BLOCK a turn, (2 maps + 1)e bytes each; parts[k, program]: the sum of
    # g * x_k, g being the gradient of the maps' weighted sum.
    program = tl.program_id(0)
    total = _total(weights_ptr, eps, MAPS)
    c0 = _weight(weights_ptr, 0, MAPS) / total
    c1 = _weight(weights_ptr, 1, MAPS) / total
    c2 = _weight(weights_ptr, 2, MAPS) / total
    c3 = _weight(weights_ptr, 3, MAPS) / total
    dot0 = tl.zeros([BLOCK], tl.float32)
    dot1 = tl.zeros([BLOCK], tl.float32)
    dot2 = tl.zeros([BLOCK], tl.float32)
    dot3 = tl.zeros([BLOCK], tl.float32)
    for start in range(0, per_program, BLOCK):
        i = program.to(tl.int64) * per_program + start + tl.arange(0, BLOCK)
        mask = i < n
        x0, x1 = _load(x0_ptr, i, mask), _load(x1_ptr, i, mask)
        x2, x3 = _load(x2_ptr, i, mask), _load(x3_ptr, i, mask)
        p = x0 * c0 + x1 * c1
        if MAPS > 2:
            p += x2 * c2
        if MAPS > 3:
            p += x3 * c3
        g = _load(grad_ptr, i, mask) * activate_grad(p, slope, ACT)
        tl.store(dx0_ptr + i, (g * c0).to(dx0_ptr.dtype.element_ty), mask=mask)
        tl.store(dx1_ptr + i, (g * c1).to(dx1_ptr.dtype.element_ty), mask=mask)
        dot0 += g * x0
        dot1 += g * x1
        if MAPS > 2:
            tl.store(dx2_ptr + i, (g * c2).to(dx2_ptr.dtype.element_ty), mask=mask)
            dot2 += g * x2
        if MAPS > 3:
            tl.store(dx3_ptr + i, (g * c3).to(dx3_ptr.dtype.element_ty), mask=mask)
            dot3 += g * x3
    programs = tl.num_programs(0)
    tl.store(parts_ptr + program, tl.sum(dot0, axis=0))
    tl.store(parts_ptr + programs + program, tl.sum(dot1, axis=0))
    if MAPS > 2:
        tl.store(parts_ptr + 2 * programs + program, tl.sum(dot2, axis=0))
    if MAPS > 3:
        tl.store(parts_ptr + 3 * programs + program, tl.sum(dot3, axis=0))


@triton.jit
def weighted_fusion_weights_kernel(
    parts_ptr, weights_ptr, dweights_ptr, programs, eps, MAPS: tl.constexpr, PROGRAMS: tl.constexpr
):
    # One program: the sums over all programs, and with them the weights' gradient,
    # (dot_k - sum_j c_j dot_j) / total where w_k > 0.
    total = _total(weights_ptr, eps, MAPS)
    at = tl.arange(0, PROGRAMS)
    mean = 0.0
    for k in range(MAPS):
        dot = tl.sum(tl.load(parts_ptr + k * programs + at, mask=at < programs, other=0.0), axis=0)
        mean += dot * (_weight(weights_ptr, k, MAPS) / total)
    for k in range(MAPS):
        dot = tl.sum(tl.load(parts_ptr + k * programs + at, mask=at < programs, other=0.0), axis=0)
        w = tl.load(weights_ptr + k).to(tl.float32)
        dw = tl.where(w <= 0.0, 0.0, (dot - mean) / total)
        tl.store(dweights_ptr + k, dw.to(dweights_ptr.dtype.element_ty))


def _maps(x0: Tensor, *others: Tensor | None) -> tuple[list[Tensor | None], int]:
    x = _layout.dense(x0)
    maps = [x, *(None if o is None else _layout.dense_as(o, x) for o in others)]
    return maps, sum(m is not None for m in maps)


def forward(
    x0: Tensor, x1: Tensor, x2: Tensor | None, x3: Tensor | None, weights: Tensor, eps: float, act: str
) -> Tensor:
    code, slope = _activation.parse(act)
    y, n = _layout.empty_like(x0), x0.numel()
    if n:
        maps, count = _maps(x0, x1, x2, x3)
        weighted_fusion_kernel[(triton.cdiv(n, BLOCK),)](
            *maps, weights.contiguous(), y, n, eps, slope, MAPS=count, ACT=code, BLOCK=BLOCK, num_warps=4
        )
    return y


def backward(
    grad: Tensor, x0: Tensor, x1: Tensor, x2: Tensor | None, x3: Tensor | None, weights: Tensor, eps: float, act: str
) -> tuple[Any, ...]:
    code, slope = _activation.parse(act)
    maps, count = _maps(x0, x1, x2, x3)
    dxs = [None if m is None else _layout.empty_like(x0) for m in maps]
    n, w = x0.numel(), weights.contiguous()
    turns = triton.cdiv(n, BLOCK)
    per_program = triton.cdiv(turns, PROGRAMS) * BLOCK
    programs = triton.cdiv(n, max(per_program, 1))
    parts = torch.empty(count, programs, dtype=torch.float32, device=x0.device)
    if n:
        weighted_fusion_backward_kernel[(programs,)](
            _layout.dense_as(grad, x0), *maps, w, *dxs, parts, n, per_program, eps, slope,
            MAPS=count, ACT=code, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    dweights = w.new_empty(count)
    weighted_fusion_weights_kernel[(1,)](parts, w, dweights, programs, eps, MAPS=count, PROGRAMS=PROGRAMS, num_warps=4)
    return *(x0.new_empty(0) if d is None else d for d in dxs), dweights
