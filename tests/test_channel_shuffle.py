"""channel_shuffle and concat_shuffle_split move bytes: every bit pattern of every dtype arrives as it left."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import cnnkernels
from cnnkernels import ops

BITS = {
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float64: torch.int64,
}
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}

every_backend = pytest.mark.parametrize(
    ("device", "backend"),
    [("cpu", b) for b in ("reference", "cpu", "cuda", "triton")]
    + [pytest.param("cuda", b, marks=pytest.mark.gpu) for b in ("reference", "cuda", "triton")],
    indirect=["backend"],
)
every_dtype = pytest.mark.parametrize("dtype", BITS, ids=str)
both_layouts = pytest.mark.parametrize("layout", LAYOUTS)


def patterns(dtype, *shape):
    """Random bits, of which a good part are NaNs: signalling and quiet, of both signs, with payloads."""
    bits = BITS[dtype]
    top = torch.iinfo(bits)
    g = torch.Generator().manual_seed(0)
    raw = torch.randint(top.min, top.max, shape, generator=g, dtype=bits)
    exponent = torch.tensor(float("inf"), dtype=dtype).view(bits)
    raw = torch.where(torch.rand(shape, generator=g) < 0.5, raw | exponent, raw)  # all exponent bits: infinity or NaN
    x = raw.view(dtype)
    if x.numel() > 20:
        assert 0.3 < x.isnan().float().mean() < 0.7
    return x


def bits(t):
    return t.cpu().contiguous().view(BITS[t.dtype])


def shuffled(raw, groups):
    """The definition, one channel at a time, on integers."""
    out = torch.empty_like(raw)
    per_group = raw.shape[1] // groups
    for i in range(per_group):
        for j in range(groups):
            out[:, i * groups + j] = raw[:, j * per_group + i]
    return out


def run(function, backend, dtype, *args):
    with cnnkernels.record_backends() as runs:
        out = function(*args)
    served = "reference" if dtype is torch.float64 and backend in ("cuda", "triton") else backend
    assert [r.backend for r in runs] == [served]
    return out


@every_backend
@every_dtype
@both_layouts
@pytest.mark.parametrize(("channels", "groups"), [(12, 3), (12, 1), (12, 12), (58, 2), (35, 5), (1, 1), (64, 4)])
@pytest.mark.parametrize("size", [(5, 3), (1, 1), (4, 8)], ids=str)
def test_every_bit_arrives(channels, groups, size, layout, dtype, device, backend):
    if backend == "triton" and device == "cpu" and (size != (5, 3) or channels == 64):
        pytest.skip("the interpreter is slow")
    x = patterns(dtype, 2, channels, *size)
    y = run(ops.channel_shuffle, backend, dtype, x.to(device).contiguous(memory_format=LAYOUTS[layout]), groups)
    assert y.is_contiguous(memory_format=LAYOUTS[layout])
    assert torch.equal(bits(y), shuffled(bits(x), groups))


@every_backend
@every_dtype
@both_layouts
@pytest.mark.parametrize(("a", "b", "groups"), [(6, 6, 2), (29, 29, 2), (5, 7, 3), (1, 11, 2), (12, 0, 4), (0, 12, 2)])
def test_every_bit_arrives_in_both_halves(a, b, groups, layout, dtype, device, backend):
    whole = patterns(dtype, 2, a + b, 4, 5)
    parts = [p.to(device).contiguous(memory_format=LAYOUTS[layout]) for p in whole.split([a, b], 1)]
    halves = run(ops.concat_shuffle_split, backend, dtype, *parts, groups)
    for half, want in zip(halves, shuffled(bits(whole), groups).chunk(2, 1), strict=True):
        assert torch.equal(bits(half), want)


@every_dtype
@both_layouts
def test_views_with_every_bit(layout, dtype):
    """Inputs that start off 16-byte boundaries, or with gaps between rows."""
    big = patterns(dtype, 3, 14, 6, 7).contiguous(memory_format=LAYOUTS[layout])
    for x in (
        big[1:],
        big[:, 1:13],
        big[:, :12, 1:],
        big[:, 2:, :, 1:6],
        big[:, ::2][:, :6],
        big.transpose(2, 3)[:, :12],
    ):
        y = run(ops.channel_shuffle, "cpu", dtype, x, 2)
        assert torch.equal(bits(y), shuffled(bits(x), 2))


@every_dtype
@pytest.mark.parametrize("groups", [2, 3, 6])
def test_gradients_with_every_bit(groups, dtype):
    """The gradient is the inverse permutation of the incoming gradient's bits."""
    x = torch.zeros(2, 12, 3, 5, dtype=dtype, requires_grad=True)
    grad = patterns(dtype, 2, 12, 3, 5)
    with cnnkernels.record_backends() as runs:
        (dx,) = torch.autograd.grad(ops.channel_shuffle(x, groups), x, grad)
    assert [r.backend for r in runs] == ["cpu"] * 2
    assert torch.equal(shuffled(bits(dx), groups), bits(grad))
    a, b = (torch.zeros(2, c, 3, 5, dtype=dtype, requires_grad=True) for c in (5, 7))
    da, db = torch.autograd.grad(ops.concat_shuffle_split(a, b, groups), (a, b), grad.chunk(2, 1))
    assert torch.equal(shuffled(torch.cat((bits(da), bits(db)), 1), groups), bits(grad))


def test_shuffling_back():
    x = patterns(torch.float32, 2, 24, 3, 3)
    for groups in (1, 2, 3, 4, 6, 8, 12, 24):
        back = ops.channel_shuffle(ops.channel_shuffle(x, groups), 24 // groups)
        assert torch.equal(bits(back), bits(x))


@pytest.mark.parametrize("groups", [True, False, 2.0, "2", None, torch.tensor(2)], ids=repr)
def test_groups_must_be_an_int(groups):
    x = torch.zeros(1, 4, 2, 2)
    for function, args in ((ops.channel_shuffle, (x,)), (ops.concat_shuffle_split, (x, x))):
        with cnnkernels.record_backends() as runs, pytest.raises(TypeError, match="groups must be an int, got"):
            function(*args, groups)
        assert not runs


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.uint8, torch.bool, torch.complex64], ids=str)
def test_other_dtypes_are_refused(dtype):
    x = torch.zeros(1, 4, 2, 2, dtype=dtype)
    for function, args in ((ops.channel_shuffle, (x, 2)), (ops.concat_shuffle_split, (x, x, 2))):
        with cnnkernels.record_backends() as runs, pytest.raises(TypeError, match="must be float32, float16"):
            function(*args)
        assert not runs


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_for_any_number_of_threads(layout):
    x = patterns(torch.float32, 4, 58, 28, 28).contiguous(memory_format=LAYOUTS[layout])
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(bits(ops.channel_shuffle(x, 2)), shuffled(bits(x), 2))
            left, right = ops.concat_shuffle_split(x[:, :29], x[:, 29:])
            assert torch.equal(bits(torch.cat((left, right), 1)), shuffled(bits(x), 2))
    finally:
        torch.set_num_threads(before)


def test_compiled():
    torch._dynamo.reset()

    def unit(a, b):
        left, right = ops.concat_shuffle_split(a, b * 2)
        return ops.channel_shuffle(torch.cat((left, right), 1), 3)

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(unit, backend=counter, fullgraph=True)
    results = []
    for f in (unit, compiled):
        a, b = (torch.ones(2, 6, 3, 4).cumsum(1).requires_grad_() for _ in range(2))
        y = f(a, b)
        results.append((y, *torch.autograd.grad(y.square().sum(), (a, b))))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert counter.frame_count > 0


def test_autocast():
    """Only the two-input op has a rule: its inputs must agree in dtype, which autocast otherwise breaks."""
    a, b = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        left, right = ops.concat_shuffle_split(a, b)
        assert ops.channel_shuffle(a, 2).dtype is torch.float32
    assert left.dtype is right.dtype is torch.bfloat16
    assert torch.equal(torch.cat((left, right), 1), ops.channel_shuffle(torch.cat((a.bfloat16(), b), 1), 2))
