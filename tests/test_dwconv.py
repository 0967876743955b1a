"""What the contract table does not say about the depthwise convolution ops: second derivatives of the whole, parameters in
odd layouts, autocast, compile, FLOPs.  Running buffers and statistics: tests/test_bn_act.py.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.flop_counter import FlopCounterMode

import cnnkernels
from cnnkernels import ops

every_backend = pytest.mark.parametrize("backend", ["reference", "cpu", "cuda", "triton"], indirect=True)

GEOMETRIES = {
    "plain": {},
    "stride": {"stride": 2},
    "strides": {"stride": (2, 1)},
    "stride 3": {"stride": (1, 3), "padding": 2},
    "dilation": {"dilation": (1, 2), "padding": (2, 1)},
    "one side": {"stride": 2, "padding": (0, 1, 1, 0)},
    "none": {"padding": 0},
}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(shape=(2, 3, 5, 6), kernel=(3, 3), dtype=torch.float32):
    """x, weight, scale, shift."""
    x, weight = normal(*shape), normal(shape[1], 1, *kernel, seed=1) / 3
    return [t.to(dtype) for t in (x, weight, normal(shape[1], seed=2).exp(), normal(shape[1], seed=3))]


# ---- second derivatives -------------------------------------------------------------------------------------------------


def check_derivatives(function, *leaves):
    leaves = tuple(t.double().requires_grad_() for t in leaves)
    with cnnkernels.record_backends() as runs:
        assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)
    assert {r.backend for r in runs} == {"cpu"}


@pytest.mark.parametrize("act", ["silu", "mish"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_second_derivatives(geometry, act):
    where = GEOMETRIES[geometry]
    x, weight, scale, shift = inputs()
    residual = torch.randn_like(ops.dwconv_bn_act(x, weight, scale, shift, **where))

    def frozen(x, weight, scale, shift, residual):
        return ops.dwconv_bn_act(x, weight, scale, shift, act=act, residual=residual, **where)

    def training(x, weight, *affine):
        return ops.dwconv_bn_act_train(x, weight, *(affine or (None, None)), None, None, act=act, **where)

    check_derivatives(frozen, x, weight, scale, shift, residual)
    check_derivatives(training, x, weight, scale, shift)
    check_derivatives(training, x, weight)


def test_gradient_penalty():
    """A second derivative through both training ops, as WGAN-GP takes it, equals torch's own."""
    x, weight, scale, shift = (t.double().requires_grad_() for t in inputs())

    def ours(u):
        u = ops.dwconv_bn_act_train(u, weight, scale, shift, None, None, act="silu", stride=2)
        return ops.bn_act_train(u, shift.exp(), scale, None, None, act="mish")

    def torchs(u):
        u = F.conv2d(u, weight, stride=2, padding=1, groups=3)
        u = F.silu(F.batch_norm(u, None, None, scale, shift, True))
        return F.mish(F.batch_norm(u, None, None, shift.exp(), scale, True))

    results = []
    for f in (ours, torchs):
        y = f(x)
        (dx,) = torch.autograd.grad((y * normal(*y.shape, seed=5)).sum(), x, create_graph=True)
        results.append(torch.autograd.grad((dx.flatten(1).norm(dim=1) - 1).square().sum(), (x, weight, scale, shift)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("wanted", range(5))
def test_gradient_of_one_input_alone(wanted):
    """The same numbers as when all five inputs want one."""
    residual = normal(2, 3, 5, 6, seed=4).float()

    def gradients(choose):
        leaves = [t.requires_grad_(i in choose) for i, t in enumerate([*inputs(), residual.clone()])]
        y = ops.dwconv_bn_act(*leaves[:4], act="silu", residual=leaves[4])
        return torch.autograd.grad(y, [leaves[i] for i in choose], normal(*y.shape, seed=5).float())

    assert torch.equal(gradients([wanted])[0], gradients(range(5))[wanted])


# ---- layouts of the parameters ------------------------------------------------------------------------------------------------


@every_backend
@pytest.mark.parametrize("channels_last", [False, True])
def test_parameters_may_be_views(backend, channels_last):
    """Filters and per-channel vectors that are slices, transposed, or one value for all channels."""
    x, weight, scale, shift = inputs((2, 8, 5, 6))
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    odd_weight = torch.zeros(8, 2, 3, 4)[:, 1:, :, :3].copy_(weight)
    swapped = weight.transpose(2, 3).contiguous().transpose(2, 3)
    odd_scale, odd_shift = torch.zeros(8, 3)[:, 1].copy_(scale), torch.zeros(17)[1:].view(8, 2)[:, 0].copy_(shift)
    with cnnkernels.record_backends() as runs:
        want = ops.dwconv_bn_act(x, weight, scale, shift, act="silu")
        assert torch.equal(ops.dwconv_bn_act(x, odd_weight, odd_scale, odd_shift, act="silu"), want)
        assert torch.equal(ops.dwconv_bn_act(x, swapped, odd_scale, odd_shift, act="silu"), want)
        want = ops.dwconv_bn_act_train(x, weight, scale, shift, None, None)
        assert torch.equal(ops.dwconv_bn_act_train(x, odd_weight, odd_scale, odd_shift, None, None), want)
    assert [r.backend for r in runs] == [backend] * 5
    one = torch.tensor([0.5]).expand(8)
    same_filter = weight[:1].expand(8, 1, 3, 3)
    want = ops.dwconv_bn_act(x, same_filter.contiguous(), one.contiguous(), one.contiguous(), act="relu")
    assert torch.equal(ops.dwconv_bn_act(x, same_filter, one, one, act="relu"), want)


@pytest.mark.parametrize("op", ["frozen", "train"])
@pytest.mark.parametrize("layout", ["expanded", "transposed", "other layout", "sliced"])
def test_incoming_gradients_in_any_layout(op, layout):
    x, weight, scale, shift = inputs((2, 4, 6, 6), dtype=torch.float64)

    def gradients(grad):
        leaves = [t.clone().requires_grad_() for t in (x, weight, scale, shift)]
        if op == "frozen":
            y = ops.dwconv_bn_act(*leaves, act="silu")
        else:
            y = ops.dwconv_bn_act_train(*leaves, None, None, act="silu")
        return torch.autograd.grad(y, leaves, grad)

    grad = normal(2, 4, 6, 6, seed=6)
    grad = {
        "expanded": grad[:, :1, :1].expand(2, 4, 6, 6),  # as y.sum().backward() makes them
        "transposed": grad.transpose(2, 3),
        "other layout": grad.contiguous(memory_format=torch.channels_last),
        "sliced": normal(2, 4, 6, 9, seed=6)[..., 1:7],
    }[layout]
    for a, b in zip(gradients(grad), gradients(grad.contiguous()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


# ---- autocast, compile, FLOPs --------------------------------------------------------------------------------------------------


def test_autocast():
    """x, weight and residual go in as half; scale and shift stay float32, and so do all gradients."""
    leaves = [t.requires_grad_() for t in inputs()]
    residual = normal(2, 3, 5, 6, seed=4).float()
    with torch.autocast("cpu", torch.bfloat16), cnnkernels.record_backends() as runs:
        y = ops.dwconv_bn_act(*leaves, act="silu", residual=residual)
    assert [(r.op, r.backend) for r in runs] == [("dwconv_bn_act", "cpu")]
    x, weight, scale, shift = inputs()
    want = ops.dwconv_bn_act(x.bfloat16(), weight.bfloat16(), scale, shift, act="silu", residual=residual.bfloat16())
    assert torch.equal(y, want)
    y.sum().backward()
    for leaf in leaves:
        assert leaf.grad.dtype is torch.float32
        assert leaf.grad.abs().sum() > 0


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_small_planes_do_not_depend_on_their_neighbours(dtype, with_residual):
    """The CPU kernel activates small NCHW planes together, 2048 sums at a time."""
    x, weight, scale, shift = inputs((2, 45, 7, 7), (5, 5))
    x, weight = x.to(dtype), weight.to(dtype)
    residual = normal(*x.shape, seed=4).to(dtype) if with_residual else None

    def run(some):
        return ops.dwconv_bn_act(
            x[:, some],
            weight[some],
            scale[some],
            shift[some],
            act="silu",
            residual=residual[:, some] if with_residual else None,
        )

    with cnnkernels.use_backend("cpu"):
        alone = torch.cat([run(slice(c, c + 1)) for c in range(45)], dim=1)
        assert torch.equal(run(slice(None)), alone)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled(dynamic):
    torch._dynamo.reset()

    def block(x, weight, scale, shift):
        y = ops.dwconv_bn_act(x + 1, weight, scale, shift, stride=2, act="silu")
        return ops.dwconv_bn_act(y, weight, scale, shift, act="relu6", residual=y)

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, backend=counter, fullgraph=True, dynamic=dynamic)
    counts = []
    for shape in ((2, 3, 6, 8), (2, 3, 6, 8), (4, 3, 9, 7))[: 3 if dynamic else 2]:
        results = []
        for f in (block, compiled):
            leaves = [t.requires_grad_() for t in inputs(shape)]
            with cnnkernels.record_backends() as runs:
                y = f(*leaves)
                results.append((y, *torch.autograd.grad(y.sum(), leaves)))
            assert {(r.op, r.backend) for r in runs} == {("dwconv_bn_act", "cpu"), ("dwconv_bn_act_backward", "cpu")}
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        counts.append(counter.frame_count)
    assert counts[0] > 0
    assert counts == counts[:1] * len(counts)  # nothing was compiled again


def counted(function, *args):
    with FlopCounterMode(display=False) as counter:
        function(*args)
    return counter.get_total_flops()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_flops(geometry):
    """Forward: what torch counts for the convolution.  Backward: dx and dweight cost as much each, u again when frozen."""
    where = GEOMETRIES[geometry]
    x, weight, scale, shift = inputs((2, 7, 9, 10))
    wide = {"stride": 1, "dilation": 1, "padding": 1} | where
    pads = wide["padding"]
    if isinstance(pads, tuple) and len(pads) == 4:
        x_torch, pads = F.pad(x, pads), 0
    else:
        x_torch = x
    convolution = counted(lambda: F.conv2d(x_torch, weight, None, wide["stride"], pads, wide["dilation"], 7))
    assert convolution > 0
    assert counted(lambda: ops.dwconv_bn_act(x, weight, scale, shift, **where)) == convolution
    assert counted(lambda: ops.dwconv_bn_act_train(x, weight, scale, shift, None, None, **where)) == convolution
    x.requires_grad_(), weight.requires_grad_()
    y = ops.dwconv_bn_act(x, weight, scale, shift, **where)
    assert counted(lambda: y.sum().backward()) == 3 * convolution
    y = ops.dwconv_bn_act_train(x, weight, scale, shift, None, None, **where)
    assert counted(lambda: y.sum().backward()) == 2 * convolution


def test_a_tensor_elsewhere_never_reaches_a_native_kernel(monkeypatch):
    """The dispatcher would pick the other device's kernel, so the check has to come first, whichever argument it is."""
    from cnnkernels._op import REGISTRY

    op = REGISTRY["dwconv_bn_act_train_backward"]
    x, w, c = torch.randn(1, 4, 5, 5), torch.randn(4, 1, 3, 3), torch.rand(4)
    called = []
    monkeypatch.setattr(op, "native", lambda *args: called.append(args))
    rest = (None, None, 1e-5, (1, 1), None, (1, 1), "relu6")
    op._run(x, x, w, x, c, c, *rest)
    assert len(called) == 1
    for other in range(1, 6):
        args = [x, x, w, x, c, c]
        args[other] = args[other].to("meta")
        with pytest.raises(ValueError, match="device"):
            op._run(*args, *rest)
    assert len(called) == 1
