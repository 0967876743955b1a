"""Triton kernels of the activations, and ``activate`` / ``activate_grad`` for the epilogues of other kernels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cnnkernels import _activation
from cnnkernels.ops.activation import _dense

# Codes as compile-time constants; the numbering is _activation.CODES.
RELU = tl.constexpr(1)
RELU6 = tl.constexpr(2)
LEAKY_RELU = tl.constexpr(3)
SILU = tl.constexpr(4)
HARD_SWISH = tl.constexpr(5)
MISH = tl.constexpr(6)
SIGMOID = tl.constexpr(7)
HARD_SIGMOID = tl.constexpr(8)


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def activate(x, slope, ACT: tl.constexpr):
    """act(x) in fp32; where() rather than min/max, so that NaN stays NaN."""
    if ACT == RELU:
        x = tl.where(x < 0.0, 0.0, x)
    elif ACT == RELU6:
        x = tl.where(x < 0.0, 0.0, tl.where(x > 6.0, 6.0, x))
    elif ACT == LEAKY_RELU:
        x = tl.where(x < 0.0, x * slope, x)
    elif ACT == SILU:
        x = x * _sigmoid(x)
    elif ACT == HARD_SWISH:
        x = x * tl.where(x < -3.0, 0.0, tl.where(x > 3.0, 6.0, x + 3.0)) * (1.0 / 6.0)
    elif ACT == MISH:
        n = tl.exp(tl.where(x > 20.0, 20.0, x))
        t = n * (n + 2.0)
        x = x * (t / (t + 2.0))
    elif ACT == SIGMOID:
        x = _sigmoid(x)
    elif ACT == HARD_SIGMOID:
        x = tl.where(x < -3.0, 0.0, tl.where(x > 3.0, 6.0, x + 3.0)) * (1.0 / 6.0)
    return x


@triton.jit
def activate_grad(x, slope, ACT: tl.constexpr):
    """d act(x) / dx in fp32, with PyTorch's values at the kinks."""
    if ACT == RELU:
        g = tl.where(x > 0.0, 1.0, 0.0)
    elif ACT == RELU6:
        g = tl.where((x > 0.0) & (x < 6.0), 1.0, 0.0)
    elif ACT == LEAKY_RELU:
        g = tl.where(x > 0.0, 1.0, slope)
    elif ACT == SILU:
        s = _sigmoid(x)
        g = s * (1.0 + x * (1.0 - s))
    elif ACT == HARD_SWISH:
        g = tl.where(x < -3.0, 0.0, tl.where(x > 3.0, 1.0, x * (1.0 / 3.0) + 0.5))
    elif ACT == MISH:
        c = tl.where(x > 20.0, 20.0, x)
        n = tl.exp(c)
        t = n * (n + 2.0)
        r = 1.0 / (t + 2.0)
        g = t * r + 4.0 * (c * (n * r)) * ((n + 1.0) * r)
    elif ACT == SIGMOID:
        s = _sigmoid(x)
        g = s * (1.0 - s)
    elif ACT == HARD_SIGMOID:
        g = tl.where((x > -3.0) & (x < 3.0), 1.0 / 6.0, 0.0)
    else:
        g = x * 0.0 + 1.0
    return g


@triton.jit
def activation_forward_kernel(x_ptr, y_ptr, n, slope, ACT: tl.constexpr, BLOCK: tl.constexpr):
    # one program: BLOCK contiguous elements, 2e bytes each
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0).to(tl.float32)
    tl.store(y_ptr + i, activate(x, slope, ACT).to(y_ptr.dtype.element_ty), mask=i < n)


@triton.jit
def activation_backward_kernel(grad_ptr, x_ptr, dx_ptr, n, slope, ACT: tl.constexpr, BLOCK: tl.constexpr):
    # one program: BLOCK contiguous elements, 3e bytes each
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0).to(tl.float32)
    g = tl.load(grad_ptr + i, mask=i < n, other=0.0).to(tl.float32)
    tl.store(dx_ptr + i, (g * activate_grad(x, slope, ACT)).to(dx_ptr.dtype.element_ty), mask=i < n)


BLOCK = 2048  # 16 elements per thread at 4 warps: one or two 16-byte accesses in flight for every dtype


def forward(x: Tensor, act: str) -> Tensor:
    code, slope = _activation.parse(act)
    x = _dense(x)
    y = torch.empty_like(x)
    if x.numel():
        grid = (triton.cdiv(x.numel(), BLOCK),)
        activation_forward_kernel[grid](x, y, x.numel(), slope, ACT=code, BLOCK=BLOCK, num_warps=4)
    return y


def backward(grad: Tensor, x: Tensor, act: str) -> Tensor:
    code, slope = _activation.parse(act)
    x = _dense(x)
    if grad.stride() != x.stride():
        grad = torch.empty_like(x).copy_(grad)
    dx = torch.empty_like(x)
    if x.numel():
        grid = (triton.cdiv(x.numel(), BLOCK),)
        activation_backward_kernel[grid](grad, x, dx, x.numel(), slope, ACT=code, BLOCK=BLOCK, num_warps=4)
    return dx
