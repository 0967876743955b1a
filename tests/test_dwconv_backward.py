"""The native gradients of the depthwise convolution against torch.autograd of F.conv2d in fp64, over a grid of sizes.

Errors are measured in units of what rounding may do: the sum of the absolute products that make an element.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cnnkernels import _ext

pytestmark = pytest.mark.skipif(_ext.module is None, reason=str(_ext.error))

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
NCHW, NHWC = torch.contiguous_format, torch.channels_last
# rounding of the accumulation: float32 sums of products of (exactly converted) inputs, or float64
ACCUMULATE = {torch.float32: 2e-6, torch.float16: 2e-6, torch.bfloat16: 2e-6, torch.float64: 1e-14}

#         N, C, H, W, kernel, stride, padding (left, right, top, bottom), dilation
SHAPES = [
    (2, 5, 9, 11, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    (1, 3, 8, 7, (1, 1), (2, 2), (0, 0, 0, 0), (1, 1)),
    (2, 19, 7, 7, (2, 2), (1, 1), (0, 1, 0, 1), (1, 1)),
    (2, 33, 7, 7, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (1, 32, 14, 14, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (3, 17, 13, 16, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    (2, 16, 14, 14, (3, 3), (2, 2), (0, 1, 0, 1), (1, 1)),
    (1, 5, 15, 12, (3, 3), (3, 3), (1, 1, 1, 1), (1, 1)),
    (2, 7, 11, 13, (3, 3), (1, 2), (1, 0, 2, 1), (1, 1)),
    (2, 7, 11, 13, (3, 3), (2, 1), (0, 2, 1, 0), (1, 1)),
    (1, 21, 12, 10, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    (1, 4, 13, 13, (3, 3), (2, 2), (2, 2, 2, 2), (2, 2)),
    (2, 9, 10, 12, (3, 5), (1, 1), (2, 2, 1, 1), (1, 1)),
    (2, 9, 10, 12, (5, 3), (2, 2), (1, 1, 2, 2), (1, 2)),
    (2, 20, 7, 7, (5, 5), (1, 1), (2, 2, 2, 2), (1, 1)),
    (1, 35, 15, 14, (5, 5), (2, 2), (2, 2, 2, 2), (1, 1)),
    (1, 16, 16, 16, (5, 5), (2, 2), (1, 2, 1, 2), (1, 1)),
    (2, 18, 9, 10, (7, 7), (1, 1), (3, 3, 3, 3), (1, 1)),
    (1, 40, 14, 15, (7, 7), (2, 2), (3, 3, 3, 3), (1, 1)),
    (1, 6, 5, 4, (3, 3), (1, 1), (5, 4, 6, 3), (1, 1)),  # padding beyond the filter
    (2, 6, 20, 3, (7, 7), (1, 1), (3, 3, 3, 3), (1, 1)),  # a map narrower than the filter
    (1, 1, 9, 9, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (2, 6, 1, 1, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (2, 6, 3, 3, (3, 3), (1, 1), (0, 0, 0, 0), (1, 1)),  # one output: of both layouts at once
    (2, 6, 6, 6, (2, 2), (3, 3), (0, 0, 0, 0), (1, 1)),  # gaps between the windows
    (0, 6, 5, 5, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (1, 8, 128, 128, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),  # long sums
    (2, 3, 130, 97, (5, 5), (2, 2), (2, 2, 2, 2), (1, 1)),
]


def make(shape, dtype, layout):
    """grad, x, weight, the other native arguments, and for both results: fp64 value and sum of |products|."""
    n, c, h, w, kernel, stride, padding, dilation = shape
    torch.manual_seed(0)
    x = torch.randn(n, c, h, w).to(dtype).contiguous(memory_format=layout)
    weight = torch.randn(c, 1, *kernel).to(dtype)

    def gradients(x, weight, grad):
        x, weight = (t.detach().double().clone().requires_grad_() for t in (x, weight))
        u = F.conv2d(F.pad(x, padding), weight, None, stride, 0, dilation, c)
        grad = torch.randn(u.shape, dtype=torch.float64).to(dtype) if grad is None else grad
        return grad, torch.autograd.grad(u, (x, weight), grad.double())

    grad, value = gradients(x, weight, None)
    _, scale = gradients(x.abs(), weight.abs(), grad.abs())
    return grad.contiguous(memory_format=layout), x, weight, (stride, padding, dilation), value, scale


def run(grad, x, weight, where):
    stride, padding, dilation = where
    return torch.ops.cnnkernels_native.dwconv_backward(grad, x, weight, [*stride, *padding, *dilation])


def check(got, value, scale, rounding, accumulate):
    error = (got.double() - value).abs()
    allowed = rounding * value.abs() + accumulate * scale + torch.finfo(got.dtype).tiny
    assert torch.isfinite(got).all()
    assert (error <= allowed).all(), f"{(error / allowed).max():.3g} times what rounding explains"


@pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_autograd(shape, dtype, layout, poison_empty):
    grad, x, weight, where, value, scale = make(shape, dtype, layout)
    dx, dw = run(grad, x, weight, where)
    assert dx.dtype is dtype
    assert dx.shape == x.shape
    assert dx.is_contiguous(memory_format=NCHW if x.is_contiguous() else layout)
    assert dw.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    assert dw.is_contiguous()
    subnormal = 2.0**-24 if dtype is torch.float16 else 0.0
    check(dx, value[0], scale[0] + subnormal / ACCUMULATE[dtype], torch.finfo(dtype).eps, ACCUMULATE[dtype])
    check(dw, value[1], scale[1], torch.finfo(dw.dtype).eps, ACCUMULATE[dtype])


@pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 24, 56, 56, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
        (4, 40, 28, 28, (5, 5), (2, 2), (2, 2, 2, 2), (1, 1)),
        (2, 80, 14, 14, (7, 7), (1, 1), (3, 3, 3, 3), (1, 1)),
        (1, 320, 7, 7, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    ],
    ids=str,
)
def test_the_same_for_any_number_of_threads(shape, layout):
    grad, x, weight, where, _, _ = make(shape, torch.float32, layout)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(grad, x, weight, where))
    finally:
        torch.set_num_threads(before)
    for dx, dw in results[1:]:
        assert torch.equal(dx, results[0][0])
        assert torch.equal(dw, results[0][1])


def test_an_infinite_input_stays_in_its_channel():
    grad, x, weight, where, _, _ = make(SHAPES[3], torch.float32, NCHW)
    x[:, 4] = float("inf")
    dw = run(grad, x, weight, where)[1]
    assert torch.isfinite(dw[torch.arange(dw.shape[0]) != 4]).all()


def test_sizes_that_do_not_fit_raise():
    grad, x, weight, where, _, _ = make(SHAPES[3], torch.float32, NCHW)
    with pytest.raises(RuntimeError, match="size of the output"):
        run(grad, x[:, :, 1:].contiguous(), weight, where)
    with pytest.raises(RuntimeError, match="size of the output"):
        run(grad, x, weight.repeat(1, 1, 2, 2), where)
    with pytest.raises(RuntimeError, match="one layout"):
        run(grad, x.to(memory_format=NHWC), weight, where)
