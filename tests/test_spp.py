"""Spatial pyramid pooling: PyTorch's rule for ties and NaN to the bit, on every backend."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import cnnkernels
from cnnkernels import ops

from .cases.table import steps

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
SIZES = (3, 7, 5)
every_backend = pytest.mark.parametrize(
    ("device", "backend"),
    [("cpu", b) for b in ("reference", "cpu", "cuda", "triton")]
    + [pytest.param("cuda", b, marks=pytest.mark.gpu) for b in ("reference", "cuda", "triton")],
    indirect=["backend"],
)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
both_layouts = pytest.mark.parametrize("layout", LAYOUTS)


def definition(x, sizes=SIZES):
    return torch.cat([x] + [F.max_pool2d(x, k, 1, k // 2) for k in sizes], 1)


def ties():
    """Few values, zeros of both signs among them."""
    x = steps(2, 5, 6, 7, low=-2, high=1, seed=3)
    x[0, :, ::2] *= -1
    x[1] = torch.where(x[1] == 0, -0.0, x[1])
    return x


def plateau():
    return torch.full((1, 3, 5, 9), 0.5, dtype=torch.float64)


def holes():
    """NaNs alone and together, a channel of nothing else, one of minus infinity, and a window that holds only that."""
    x = torch.randn(1, 5, 8, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    x[:, 0, 2, 3] = x[:, 0, 2, 5] = x[:, 0, 4, 4] = float("nan")
    x[:, 1] = float("nan")
    x[:, 2] = -float("inf")
    x[:, 3, :5, :5] = -float("inf")
    x[:, 4, 0, 0], x[:, 4, -1, -1] = float("inf"), float("nan")
    return x


@every_backend
@every_dtype
@both_layouts
@pytest.mark.parametrize("values", [ties, plateau, holes])
def test_values_and_gradients_are_pytorchs(values, layout, dtype, device, backend):
    """Gradients are small integers, so that sums are exact in any order."""
    if device == "cpu" and backend == "triton" and (layout == "nchw") == (values is ties):
        pytest.skip("the interpreter is slow")
    x = values().to(device, dtype).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    with cnnkernels.record_backends() as runs:
        y = ops.spp(x, SIZES)
        grad = steps(*y.shape, seed=5).to(device, dtype).contiguous(memory_format=LAYOUTS[layout])
        (dx,) = torch.autograd.grad(y, x, grad)
    served = "reference" if dtype is torch.float64 and backend in ("cuda", "triton") else backend
    assert [(r.op, r.backend) for r in runs] == [("spp", served), ("spp_backward", served)]
    plain = x.detach().cpu().double().contiguous().requires_grad_()
    want = definition(plain)
    (want_dx,) = torch.autograd.grad(want, plain, grad.cpu().double())
    torch.testing.assert_close(y.cpu().double(), want, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(dx.cpu().double(), want_dx, rtol=0, atol=0)
    assert y.is_contiguous(memory_format=LAYOUTS[layout]) and dx.is_contiguous(memory_format=LAYOUTS[layout])


@every_dtype
@both_layouts
def test_x_itself_arrives_with_every_bit(layout, dtype):
    """A payload of a NaN, and its sign, are not looked at."""
    x = torch.zeros(1, 2, 4, 5, dtype=dtype)
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    x.view(bits).copy_(torch.arange(40).view(1, 2, 4, 5) - 20)  # small negative integers are NaNs with payloads
    x = x.contiguous(memory_format=LAYOUTS[layout])
    y = ops.spp(x, (3,))
    assert torch.equal(y[:, :2].contiguous().view(bits), x.contiguous().view(bits))
    assert x.isnan().any()


@both_layouts
@pytest.mark.parametrize("size", [(13, 13), (4, 33), (1, 70)], ids=str)
def test_the_same_for_any_number_of_threads(layout, size):
    x = torch.randn(3, 70, *size).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = ops.spp(x)
            results.append((y, *torch.autograd.grad(y, x, y.cos())))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], definition(x, (5, 9, 13)))
    for y, dx in results[1:]:
        assert torch.equal(y, results[0][0]) and torch.equal(dx, results[0][1])


def test_windows_larger_than_the_map():
    x = torch.randn(1, 3, 4, 6)
    assert torch.equal(ops.spp(x, (1_000_001,))[:, 3:], x.amax((2, 3), keepdim=True).expand_as(x))


@pytest.mark.parametrize("size", [True, 5.0, "5", None, torch.tensor(5)], ids=repr)
def test_sizes_must_be_ints(size):
    with cnnkernels.record_backends() as runs, pytest.raises(TypeError, match="spp: kernel_sizes must be ints, got"):
        ops.spp(torch.zeros(1, 2, 4, 4), (3, size))
    assert not runs


def test_second_derivative():
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda t: ops.spp(t, (3, 5)).square(), (x,))
