"""What the contract table does not say about batch norm + activation: running buffers, statistics under cancellation,
second derivatives of the whole, autocast, compile.  The training op with a depthwise convolution runs through it too.
"""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend

import cnnkernels
from cnnkernels import _op, ops

C = 5
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

every_backend = pytest.mark.parametrize("backend", ["reference", "cpu", "cuda", "triton"], indirect=True)
both_ops = pytest.mark.parametrize("name", ["bn_act_train", "dwconv_bn_act_train"])


def image(*shape, dtype=torch.float32, layout=torch.contiguous_format, seed=0):
    x = torch.randn(shape or (3, C, 6, 7), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(dtype).contiguous(memory_format=layout)


def window(c=C, dtype=torch.float32):
    """A 3x3 filter per channel."""
    return (torch.linspace(-1, 1, 9 * c, dtype=torch.float64).reshape(c, 1, 3, 3) + 0.2).to(dtype)


def train(name, x, weight, bias, mean, var, **options):
    """Either training op; the one with a convolution applies ``window``."""
    options = {"act": "silu"} | options
    if name == "bn_act_train":
        return ops.bn_act_train(x, weight, bias, mean, var, **options)
    return ops.dwconv_bn_act_train(x, window(x.shape[1], x.dtype), weight, bias, mean, var, **options)


def normalised(name, x):
    """What the op normalises, in fp64."""
    if name == "bn_act_train":
        return x.double()
    return F.conv2d(x.double(), window(x.shape[1], x.dtype).double(), padding=1, groups=x.shape[1])


def parameters(c=C):
    return torch.linspace(0.5, 1.5, c), torch.linspace(-1, 1, c)


def buffers(c=C, dtype=torch.float32):
    return torch.linspace(-0.5, 0.5, c).to(dtype), torch.linspace(0.5, 2, c).to(dtype)


# ---- running buffers ------------------------------------------------------------------------------------------------------


@both_ops
@every_backend
@pytest.mark.parametrize("momentum", [0, 0.1, 0.37, 1.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_running_buffers_follow_torch(name, backend, momentum, dtype):
    """Three steps, as torch's batch norm takes them on the same values in fp64."""
    (weight, bias), (mean, var) = parameters(), buffers()
    want_mean, want_var = mean.double(), var.double()
    same = mean, var
    for step in range(3):
        x = image(dtype=dtype, seed=step)
        with cnnkernels.record_backends() as runs:
            y = train(name, x.requires_grad_(), weight, bias, mean, var, momentum=momentum)
        assert [(r.op, r.backend, r.reason) for r in runs] == [(name, backend, None)]
        u = normalised(name, x.detach())
        want = F.silu(F.batch_norm(u, want_mean, want_var, weight.double(), bias.double(), True, momentum, 1e-5))
        torch.testing.assert_close(y.double(), want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
        torch.testing.assert_close(mean.double(), want_mean, rtol=1e-5, atol=2e-6)
        torch.testing.assert_close(var.double(), want_var, rtol=1e-5, atol=2e-6)
    assert (mean, var) == same  # in place
    assert not mean.requires_grad
    if momentum == 0:
        assert all(torch.equal(a, b) for a, b in zip((mean, var), buffers(), strict=True))


@both_ops
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_running_buffers_of_the_input_s_dtype(name, dtype):
    mean, var = buffers(dtype=dtype)
    x = image(dtype=dtype)
    before_mean, before_var = (b.double().clone() for b in (mean, var))
    train(name, x, None, None, mean, var, momentum=0.5)
    u = normalised(name, x)
    assert mean.dtype is var.dtype is dtype
    rounding = dict.fromkeys(("rtol", "atol"), max(2 * torch.finfo(dtype).eps, 1e-12))
    torch.testing.assert_close(mean.double(), (before_mean + u.mean((0, 2, 3))) / 2, **rounding)
    torch.testing.assert_close(var.double(), (before_var + u.var((0, 2, 3))) / 2, **rounding)


@both_ops
def test_running_buffers_may_be_views(name):
    """Columns of a matrix: updated where they are, and nothing else of the matrix is."""
    table = torch.full((C, 4), 7.0)
    table[:, 1], table[:, 2] = buffers()
    mean, var = buffers()
    train(name, image(), None, None, mean, var)
    train(name, image(), None, None, table[:, 1], table[:, 2])
    assert torch.equal(table[:, 1], mean)
    assert torch.equal(table[:, 2], var)
    assert (table[:, [0, 3]] == 7).all()


FAILURES = {
    "activation": ({"act": "gelu"}, ValueError, "act must be one of"),
    "eps": ({"eps": math.nan}, ValueError, "eps must be"),
    "momentum NaN": ({"momentum": math.nan}, ValueError, "momentum must be between 0 and 1, got nan"),
    "momentum 2": ({"momentum": 2.0}, ValueError, "momentum must be between 0 and 1, got 2.0"),
    "momentum None": ({"momentum": None}, TypeError, "momentum must be a float, got NoneType"),
    "momentum True": ({"momentum": True}, TypeError, "momentum must be a float, got bool"),
    "weight": ({"weight": torch.ones(C + 1)}, ValueError, r"bn_weight must be \[C\] with C=5"),
    "bias": ({"bias": torch.ones(C, dtype=torch.int64)}, TypeError, "bn_bias must be"),
    "mean": ({"mean": torch.ones(C - 1)}, ValueError, r"running_mean must be \[C\] with C=5 \(x is .*\), got \[4\]"),
    "var": ({"var": torch.ones(C).half()}, TypeError, "running_var must be torch.float32"),
    "mean alone": ({"var": None}, ValueError, "must both be given or both be None"),
    "var alone": ({"mean": None}, ValueError, "must both be given or both be None"),
}


@both_ops
@pytest.mark.parametrize("case", FAILURES)
def test_a_call_that_fails_changes_nothing(name, case):
    changed, error, message = FAILURES[case]
    (weight, bias), (mean, var) = parameters(), buffers()
    given = {"x": image(), "weight": weight, "bias": bias, "mean": mean, "var": var} | changed
    with cnnkernels.record_backends() as runs, pytest.raises(error, match=f"{name}: .*{message}"):
        train(name, **given)
    assert not runs
    assert all(torch.equal(a, b) for a, b in zip((mean, var), buffers(), strict=True))
    assert torch.equal(given["x"], image())


@both_ops
def test_a_kernel_that_fails_changes_nothing(name, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(_op.REGISTRY[name], "native", broken)
    mean, var = buffers()
    with cnnkernels.use_backend("cpu"), pytest.raises(RuntimeError, match="out of memory"):
        train(name, image(), None, None, mean, var)
    assert all(torch.equal(a, b) for a, b in zip((mean, var), buffers(), strict=True))


@every_backend
def test_an_empty_batch_changes_no_buffer(backend):
    mean, var = buffers()
    y = ops.bn_act_train(image()[:0], *parameters(), mean, var, act="mish")
    assert y.shape == (0, C, 6, 7)
    assert all(torch.equal(a, b) for a, b in zip((mean, var), buffers(), strict=True))


# ---- statistics ------------------------------------------------------------------------------------------------------------

HARD = {
    # fp32 squares of values around 1000 are rounded to 1/16: mean(x^2) - mean(x)^2 would have no correct digit
    "mean 1000 times the deviation": lambda x: x + 1000,
    "below zero": lambda x: x / 8 - 125,
    "other means in other channels": lambda x: x + torch.linspace(-3000, 1000, x.shape[1]).reshape(1, -1, 1, 1),
    "images apart": lambda x: x + torch.arange(len(x)).reshape(-1, 1, 1, 1) * 1000,
    "a jump half way": lambda x: torch.cat((x[:, :, : x.shape[2] // 2] + 1000, x[:, :, x.shape[2] // 2 :] - 1000), 2),
}


@every_backend
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("case", HARD)
def test_statistics_without_cancellation(case, layout, backend):
    shape = (2, 3, 8, 9) if backend == "triton" else (2, 19, 61, 47)
    x = HARD[case](image(*shape)).contiguous(memory_format=layout)
    y, mean, var = _op.REGISTRY["bn_act_train"](x, None, None, 1e-5, "identity", None)
    u = x.double()
    want_var, want_mean = torch.var_mean(u, (0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), want_mean, rtol=0, atol=3e-7 * float(u.abs().max()))
    torch.testing.assert_close(var.double(), want_var, rtol=1e-4, atol=0)
    # one rounding of x - mean and of the mean, in units of the deviation
    allowed = 2e-5 + 3e-7 * u.abs().max() * want_var.rsqrt().max()
    assert (y.double() - F.batch_norm(u, None, None, training=True)).abs().max() < allowed


@every_backend
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
def test_statistics_of_a_convolution_without_cancellation(layout, backend):
    shape = (2, 3, 8, 9) if backend == "triton" else (2, 19, 47, 31)
    x = (image(*shape) + 1000).contiguous(memory_format=layout)
    weight = torch.full((shape[1], 1, 3, 3), 0.125)
    y, _, mean, var = _op.REGISTRY["dwconv_bn_act_train"](x, weight, None, None, 1e-5, [1], [0], [1], "identity")
    u = F.conv2d(x.double(), weight.double(), groups=shape[1])
    want_var, want_mean = torch.var_mean(u, (0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), want_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        var.double(), want_var, rtol=3e-3, atol=0
    )  # sums around 1125 carry 1e-4 of rounding each
    assert (y.double() - F.batch_norm(u, None, None, training=True)).abs().max() < 5e-3


@both_ops
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
def test_the_same_for_any_number_of_threads(name, layout):
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            x = image(4, 40, 28, 28).contiguous(memory_format=layout).requires_grad_()
            weight, bias = (p.requires_grad_() for p in parameters(40))
            mean, var = buffers(40)
            y = train(name, x, weight, bias, mean, var)
            grads = torch.autograd.grad(y, (x, weight, bias), image(*y.shape, seed=1))
            results.append((y, mean, var, *grads))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


# ---- gradients ---------------------------------------------------------------------------------------------------------------


def smooth(function, *inputs):
    """First and second derivatives in fp64 by finite differences, on the CPU kernels."""
    inputs = tuple(i.double().requires_grad_() for i in inputs)
    with cnnkernels.record_backends() as runs:
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)
    assert {r.backend for r in runs} == {"cpu"}


@pytest.mark.parametrize("act", ["silu", "mish", "sigmoid"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 3, 4), (4, 3), (2, 3, 5)], ids=str)
def test_second_derivatives(act, residual, shape):
    x, r = image(*shape), [image(*shape, seed=1)] if residual else []

    def frozen(x, scale, shift, *r):
        return ops.bn_act(x, scale, shift, act=act, residual=r[0] if r else None)

    def training(x, weight, bias, *r):
        return ops.bn_act_train(x, weight, bias, None, None, act=act, residual=r[0] if r else None)

    smooth(frozen, x, *parameters(3), *r)
    smooth(training, x, *parameters(3), *r)
    smooth(lambda x: ops.bn_act_train(x, None, None, None, None, act=act), x)


def test_gradients_only_where_they_are_wanted():
    """Parameters frozen, or x without a gradient: the others' gradients are those of the full backward pass."""
    x, (weight, bias), g = image(), parameters(), image(seed=1)

    def step(*wanted):
        inputs = [t.clone().requires_grad_(w) for t, w in zip((x, weight, bias), wanted, strict=True)]
        y = ops.bn_act_train(*inputs, None, None, act="silu")
        return torch.autograd.grad(y, [i for i in inputs if i.requires_grad], g)

    full = step(True, True, True)
    assert torch.equal(step(True, False, False)[0], full[0])
    assert torch.equal(step(False, True, False)[0], full[1])
    assert torch.equal(step(False, False, True)[0], full[2])


# ---- autocast, compile ---------------------------------------------------------------------------------------------------------


@both_ops
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_in_training(name, dtype):
    """x goes in as half, parameters, buffers and all gradients stay float32."""
    leaves = [image().requires_grad_(), *(p.requires_grad_() for p in parameters())]
    w = window().requires_grad_()
    mean, var = buffers()
    convolution = name == "dwconv_bn_act_train"
    function = partial(getattr(ops, name), act="silu")

    def call(x, weight, bias, mean, var, w):
        return function(x, w, weight, bias, mean, var) if convolution else function(x, weight, bias, mean, var)

    with torch.autocast("cpu", dtype), cnnkernels.record_backends() as runs:
        y = call(*leaves, mean, var, w)
        with torch.autocast("cpu", enabled=False):
            assert call(*leaves, *buffers(), w).dtype is torch.float32
    assert {(r.op, r.backend) for r in runs} == {(name, "cpu")}
    assert y.dtype is dtype
    want_mean, want_var = buffers()
    assert torch.equal(y, call(image().to(dtype), *parameters(), want_mean, want_var, window().to(dtype)))
    assert torch.equal(mean, want_mean)
    assert torch.equal(var, want_var)
    y.sum().backward()
    for leaf in (*leaves, *([w] if convolution else [])):
        assert leaf.grad.dtype is torch.float32
        assert leaf.grad.abs().sum() > 0
    double = call(*(t.double() for t in (image(), *parameters(), *buffers(), window())))
    with torch.autocast("cpu", dtype):  # fp64 is left alone, as in torch
        again = call(*(t.double() for t in (image(), *parameters(), *buffers(), window())))
    assert torch.equal(double, again)


def test_autocast_in_inference():
    scale, shift = parameters()
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.bn_act(image(), scale, shift, act="relu", residual=image(seed=1))
    x, r = image().bfloat16(), image(seed=1).bfloat16()
    assert torch.equal(y, ops.bn_act(x, scale, shift, act="relu", residual=r))


@both_ops
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_training_step(name, dynamic):
    """Forward, backward and the update of the buffers in one graph, without a break; sizes may change if dynamic."""
    torch._dynamo.reset()

    def step(x, weight, bias, mean, var):
        y = train(name, x * 2, weight, bias, mean, var, momentum=0.3)
        return y.sigmoid()

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, backend=counter, fullgraph=True, dynamic=dynamic)
    counts = []
    for n, size in ((3, 6), (3, 6), (2, 8)) if dynamic else ((3, 6), (3, 6)):
        results = []
        for f in (step, compiled):
            x = image(n, C, size, 7).requires_grad_()
            weight, bias = (p.requires_grad_() for p in parameters())
            mean, var = buffers()
            with cnnkernels.record_backends() as runs:
                y = f(x, weight, bias, mean, var)
                grads = torch.autograd.grad(y.sum(), (x, weight, bias))
            assert {(r.op, r.backend) for r in runs} == {(name, "cpu"), (f"{name}_backward", "cpu")}
            results.append((y, mean, var, *grads))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        counts.append(counter.frame_count)
    assert counts[0] > 0
    assert counts == counts[:1] * len(counts)  # nothing was compiled again
