"""Activations and their derivatives at every half-precision number there is, and at the ends of float32."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import cnnkernels
from cnnkernels import _ext, _op, ops

INF = math.inf
DEFINITIONS = {
    "identity": lambda x: x.clone(),
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu(0.1)": lambda x: F.leaky_relu(x, 0.1),
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "hard_swish": F.hardswish,
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": F.hardsigmoid,
}
SMOOTH = ("identity", "silu", "mish", "sigmoid")

every_name = pytest.mark.parametrize("name", DEFINITIONS)
every_backend = pytest.mark.parametrize(
    ("device", "backend"),
    [("cpu", b) for b in ("reference", "cpu", "cuda", "triton")]
    + [pytest.param("cuda", b, marks=pytest.mark.gpu) for b in ("reference", "cuda", "triton")],
    indirect=["backend"],
)


def usual(x):
    """Not within a factor of 8 of float32's largest number, where hard_swish's and mish's factors overflow, as torch's do."""
    return x.isfinite() & (x.double().abs() < torch.finfo(torch.float32).max / 8)


def every_number(dtype):
    """All 65,536 values of a half type, infinities and NaNs included."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


def ends(dtype):
    """Values at which exponentials overflow, underflow or saturate, zeros of both signs, the largest and the smallest."""
    limits = torch.finfo(dtype)
    values = [0.0, 1e-30, 1e-8, 0.5, 1, 2.9999, 3, 3.0001, 6, 8, 17, 20, 40, 87, 88.7, 89, 103, 104, 200, 709, 746, 1e4]
    values += [1e20, 4e37, limits.smallest_normal, limits.eps]
    return torch.tensor([s * v for v in values for s in (1, -1)], dtype=torch.float64).to(dtype)


def instruction_sets():
    before = _ext.module.cpu_isa()
    try:
        for name in ("generic", "avx2", "avx512"):
            if _ext.module.set_cpu_isa(name) == name:
                yield name
    finally:
        _ext.module.set_cpu_isa(before)


def run(op, backend, *args):
    with cnnkernels.record_backends() as runs:
        y = _op.REGISTRY[op](*args)
    assert [(r.backend, r.reason) for r in runs] == [(backend, None)]
    return y.cpu()


def on_every_instruction_set(op, backend, *args):
    if backend != "cpu":
        return [run(op, backend, *args)]
    return [run(op, backend, *args) for _ in instruction_sets()]


def assert_rounded_once(got, want, truncates=False):
    """got is want in one rounding to got's dtype (two units in the last place, to allow for the float32 arithmetic before);
    zero may stand for what is below 2e-36: 1 / sigmoid overflows there in float32, and a GPU's quick division before."""
    limits = torch.finfo(got.dtype)
    eps = limits.eps * (2 if truncates else 1)
    allowed = eps * want.abs() + max(limits.smallest_normal * limits.eps, 2e-36)
    wrong = ~((got.double() - want).abs() <= allowed)
    assert not wrong.any(), (got[wrong][:5], want[wrong][:5])


@every_name
@every_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_at_every_number(name, dtype, device, backend):
    x = every_number(dtype)
    finite = usual(x)
    want = DEFINITIONS[name](x.double())
    for y in on_every_instruction_set("activation", backend, x.to(device), name):
        assert y.dtype is dtype
        truncates = backend == "triton" and device == "cpu" and dtype is torch.bfloat16  # the interpreter does
        assert_rounded_once(y[finite], want[finite], truncates)
        assert y[x.isnan()].isnan().all()
        top = float(y[x == INF])
        assert top == {"relu6": 6.0, "sigmoid": 1.0, "hard_sigmoid": 1.0}.get(name, INF)


@every_name
@every_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_derivative_at_every_number(name, dtype, device, backend):
    """Towards infinity it goes to a constant; nowhere does a finite number get NaN."""
    x = every_number(dtype)
    up = x.double().requires_grad_()
    (want,) = torch.autograd.grad(DEFINITIONS[name](up).sum(), up)
    smooth = usual(x)
    if backend == "triton" and device == "cpu":  # the interpreter flushes some subnormal bf16 numbers to 0
        smooth &= x.abs() >= torch.finfo(dtype).smallest_normal
    for kink in () if name in SMOOTH else (-3.0, 0.0, 3.0, 6.0):  # either side's derivative is right
        smooth &= x != kink
    for dx in on_every_instruction_set(
        "activation_backward", backend, torch.ones_like(x).to(device), x.to(device), name
    ):
        assert dx[usual(x)].isfinite().all()
        error = (dx.double() - want)[smooth].abs()
        assert (error <= 2 * torch.finfo(dtype).eps * want[smooth].abs() + 1e-6).all()


@every_name
@every_backend
def test_at_the_ends_of_float32(name, device, backend):
    x = ends(torch.float32)
    up = x.double().requires_grad_()
    want = DEFINITIONS[name](up)
    (gradient,) = torch.autograd.grad(want.sum(), up)
    want = want.detach()
    absolute = 1e-30 if device == "cpu" else 2e-6  # a GPU's quick exp
    for y in on_every_instruction_set("activation", backend, x.to(device), name):
        assert y.isfinite().all()
        assert ((y.double() - want).abs() <= 1e-6 * want.abs() + absolute).all()
    for dx in on_every_instruction_set(
        "activation_backward", backend, torch.ones_like(x).to(device), x.to(device), name
    ):
        assert dx.isfinite().all()
        flat = x.abs() > 6.5  # beyond all kinks
        assert ((dx.double() - gradient).abs() <= 2e-6)[flat].all()


@every_name
def test_the_same_at_every_position(name):
    """Vectors and what is left over at the end compute alike: a value's result does not depend on where it lies."""
    values = torch.cat((ends(torch.float32), torch.linspace(-9, 9, 37)))
    for isa in instruction_sets():
        alone = torch.cat([run("activation", "cpu", v, name) for v in values.split(1)])
        for n in (1, 3, 7, 8, 15, 16, 17, 31, 33, 64, len(values)):
            assert torch.equal(run("activation", "cpu", values[:n].clone(), name), alone[:n]), (isa, n)


@pytest.mark.parametrize("name", SMOOTH)
def test_second_derivatives(name):
    x = torch.linspace(-5, 5, 11, dtype=torch.float64, requires_grad=True)
    with cnnkernels.record_backends() as runs:
        assert torch.autograd.gradgradcheck(lambda x: ops.activation(x, name), x)
    assert {r.backend for r in runs} == {"cpu"}


def test_mish_is_the_activation():
    x = ends(torch.float32)
    assert torch.equal(ops.mish(x), ops.activation(x, "mish"))


@pytest.mark.parametrize("name", ["silu", "mish"])
def test_autocast_leaves_the_dtype(name):
    """As F.silu and F.mish: no rule of their own, so they compute in what they get."""
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.activation(torch.ones(3), name).dtype is torch.float32
        assert ops.activation(torch.ones(3).bfloat16(), name).dtype is torch.bfloat16
