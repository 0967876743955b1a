"""Enlarging and adding: PyTorch's choice of pixels to the bit, on every backend."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import cnnkernels
from cnnkernels import ops

from .cases.table import steps

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
every_backend = pytest.mark.parametrize(
    ("device", "backend"),
    [("cpu", b) for b in ("reference", "cpu", "cuda", "triton")]
    + [pytest.param("cuda", b, marks=pytest.mark.gpu) for b in ("reference", "cuda", "triton")],
    indirect=["backend"],
)


def definition(x, y):
    return F.interpolate(x, size=y.shape[2:], mode="nearest") + y


def maps(small, large, layout, dtype, device):
    """Small integers, so that sums are exact in every dtype and order; every pixel another one."""
    x = torch.arange(small[0] * small[1]).remainder(29).reshape(1, 1, *small) - 14 + steps(1, 2, 1, 1, seed=1)
    y = steps(1, 2, *large, seed=2)
    return (t.to(device=device, dtype=dtype).contiguous(memory_format=LAYOUTS[layout]) for t in (x, y))


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("small", "large"),
    [((4, 6), (8, 12)), ((4, 6), (7, 11)), ((3, 17), (6, 33)), ((2, 3), (8, 24)), ((5, 4), (13, 9)), ((7, 9), (3, 4))],
    ids=lambda s: "x".join(map(str, s)),
)
def test_values_and_gradients_are_pytorchs(small, large, layout, dtype, device, backend):
    if backend in ("cuda", "triton") and dtype is torch.float64:
        pytest.skip("float64 is for cpu and reference")
    x, y = (t.requires_grad_() for t in maps(small, large, layout, dtype, device))
    with cnnkernels.record_backends() as runs:
        out = ops.upsample_add(x, y)
        got = torch.autograd.grad(out, (x, y), y.detach())
    want = definition(x, y)
    assert torch.equal(out, want)
    for g, w in zip(got, torch.autograd.grad(want, (x, y), y.detach()), strict=True):
        assert torch.equal(g, w)
    assert [(r.op, r.backend) for r in runs] == [("upsample_add", backend), ("upsample_add_backward", backend)]


@pytest.mark.parametrize("backend", ["reference", "cpu", "cuda"], indirect=True)
@pytest.mark.parametrize("size", [31, 256, 1000, 2399, 2400, 5000, 9001])
def test_sizes_at_which_fp32_runs_out_of_digits(size, backend):
    """One row, doubled but for a column: at 5000 and 9001, the product of some column rounds up to the next pixel."""
    x, y = torch.arange(size, dtype=torch.float32).reshape(1, 1, 1, -1), torch.zeros(1, 1, 1, 2 * size - 1)
    for large in (y, y[..., :-1], torch.zeros(1, 1, 1, 2 * size), torch.zeros(1, 1, 1, 3 * size - 2)):
        assert torch.equal(ops.upsample_add(x, large), definition(x, large))


@pytest.mark.parametrize("large", [(4, 410), (4, 470)])
def test_float64_takes_the_pixels_that_float32_takes(large):
    """Also where PyTorch, on a CPU in float64, computes the place in float64."""
    x = torch.arange(40, dtype=torch.float32).reshape(1, 1, 4, 10)
    y = torch.zeros(1, 1, *large)
    for backend in ("cpu", "reference"):
        with cnnkernels.use_backend(backend):
            assert torch.equal(ops.upsample_add(x.double(), y.double()).float(), definition(x, y))


def test_half_types_sum_in_float32():
    """1 and 2,048 times 1 in one pixel: float16 alone would stay at 2,048, bfloat16 at 256."""
    grad = torch.ones(1, 1, 1, 2048)
    for dtype in (torch.float16, torch.bfloat16):
        got = torch.ops.cnnkernels.upsample_add_backward(torch.cat((grad, grad), 3).to(dtype), 1, 1)
        assert got.item() == 4096


@pytest.mark.parametrize("backend", ["reference", "cpu"], indirect=True)
def test_autocast(backend):
    x, y = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 6, 5, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = ops.upsample_add(x, y)
    assert torch.equal(out, definition(x.bfloat16(), y))
