"""What the contract table does not say about squeeze_excite: second derivatives, views, autocast, threads, FLOPs, extremes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import cnnkernels
from cnnkernels import ops

every_backend = pytest.mark.parametrize("backend", ["reference", "cpu", "cuda", "triton"], indirect=True)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(n=2, c=6, h=3, w=4, r=3, dtype=torch.float32):
    """x, w1, b1, w2, b2."""
    tensors = (
        normal(n, c, h, w) + 0.3,
        normal(r, c, seed=1),
        normal(r, seed=2),
        normal(c, r, seed=3),
        normal(c, seed=4),
    )
    return [t.to(dtype) for t in tensors]


def definition(x, w1, b1, w2, b2, act, gate):
    s = F.conv2d(F.adaptive_avg_pool2d(x, 1), w1.reshape(*w1.shape[:2], 1, 1), b1)
    s = F.conv2d(act(s), w2.reshape(*w2.shape[:2], 1, 1), b2)
    return x * gate(s)


def run(backend, *args, **options):
    with cnnkernels.record_backends() as runs:
        y = ops.squeeze_excite(*args, **options)
    assert [(r.op, r.backend, r.reason) for r in runs] == [("squeeze_excite", backend, None)]
    return y


@pytest.mark.parametrize("biases", [True, False])
def test_second_derivatives(biases):
    x, w1, b1, w2, b2 = (t.double().requires_grad_() for t in inputs())

    def call(x, w1, w2, *b):
        return ops.squeeze_excite(x, w1, b[0] if b else None, w2, b[1] if b else None, act="silu")

    leaves = (x, w1, w2, b1, b2) if biases else (x, w1, w2)
    with cnnkernels.record_backends() as runs:
        assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)
    assert {r.backend for r in runs} == {"cpu"}


@every_backend
@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid"])
def test_saturated_gates(gate, backend):
    """Gates at 0 and 1 exactly: x is erased or goes through untouched, and a gate of 0 has no gradient."""
    x, w1, b1, w2, _ = inputs()
    b2 = torch.tensor([200.0, -200.0] * 3)
    y = run(backend, x, w1 * 0.1, b1, w2 * 0.1, b2, gate=gate)
    assert torch.equal(y[:, ::2], x[:, ::2])
    assert (y[:, 1::2] == 0).all()


@every_backend
def test_what_is_not_finite_stays_in_its_image(backend):
    """A NaN or an infinity makes all of its own image NaN or infinite, and no other."""
    x, *rest = inputs(n=4)
    want = run(backend, x, *rest)
    x[1, 2, 0, 0], x[2, 1, 1, 1] = float("nan"), float("inf")
    y = run(backend, x, *rest)
    assert torch.equal(y[[0, 3]], want[[0, 3]])
    assert y[1].isnan().all()
    assert not y[2].isfinite().all()


@every_backend
def test_means_of_large_half_values(backend):
    """Sums of 2,304 values of 60,000 exceed float16 by far; the mean does not."""
    x = torch.full((1, 3, 48, 48), 60000.0, dtype=torch.float16)
    w1, w2 = torch.full((1, 3), 1 / 180000).half(), torch.ones(3, 1).half()
    y = run(backend, x, w1, None, w2, None, act="identity")
    mean = float(w1.float().sum()) * 60000
    torch.testing.assert_close(y.float(), x.float() * torch.sigmoid(torch.tensor(mean)), rtol=1e-3, atol=0)


@every_backend
@pytest.mark.parametrize("channels_last", [False, True])
def test_parameters_may_be_views(backend, channels_last):
    x, w1, b1, w2, b2 = inputs()
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    want = run(backend, x, w1, b1, w2, b2)
    odd_w1, odd_b1 = w1.t().contiguous().t(), torch.zeros(3, 2)[:, 1].copy_(b1)
    odd_w2, odd_b2 = torch.zeros(7, 5)[1:, 1:4].copy_(w2), torch.zeros(7)[1:].copy_(b2)
    assert torch.equal(run(backend, x, odd_w1, odd_b1, odd_w2, odd_b2), want)
    assert torch.equal(run(backend, x, w1[:, :, None, None], b1, w2[:, :, None, None], b2), want)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("shape", [(1, 96, 56, 56, 4), (4, 240, 14, 14, 10)], ids=str)
def test_the_same_for_any_number_of_threads(shape, layout):
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            leaves = inputs(*shape)
            leaves[0] = leaves[0].contiguous(memory_format=layout)
            leaves = [t.requires_grad_() for t in leaves]
            y = run("cpu", *leaves, act="silu")
            results.append((y, *torch.autograd.grad(y, leaves, normal(*y.shape, seed=5).float())))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_autocast():
    leaves = [t.requires_grad_() for t in inputs()]
    with torch.autocast("cpu", torch.bfloat16):
        y = run("cpu", *leaves, act="silu")
    assert torch.equal(y, ops.squeeze_excite(*(t.bfloat16() for t in inputs()), act="silu"))
    y.sum().backward()
    for leaf in leaves:
        assert leaf.grad.dtype is torch.float32
        assert leaf.grad.abs().sum() > 0


def counted(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def test_flops():
    """The layers as torch counts them, and two passes over x; backwards the layers again and twice their gradients."""
    n, c, h, w, r = 2, 7, 5, 3, 4
    leaves = [t.requires_grad_() for t in inputs(n, c, h, w, r)]
    layers = counted(lambda: definition(*leaves, F.relu, torch.sigmoid))
    assert layers == 4 * n * c * r
    assert counted(lambda: ops.squeeze_excite(*leaves)) == layers + 2 * n * c * h * w
    y = ops.squeeze_excite(*leaves)
    assert counted(lambda: y.sum().backward()) == 3 * layers + 5 * n * c * h * w
