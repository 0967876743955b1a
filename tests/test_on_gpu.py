"""What users of a GPU meet beyond single ops: direct calls, modules, networks in CUDA graphs, packages (``./dev gpu``)."""

from __future__ import annotations

import pytest
import torch

import cnnkernels
from cnnkernels import _op, export
from cnnkernels._tf32 import without_tf32
from cnnkernels.nn import ConvBNAct
from cnnkernels.optimize import optimize

from .cases import CASES, NOT_WRITTEN
from .networks.case import calibrate, images, randomise
from .oracles import torchvision_model
from .test_contract import tensors
from .test_export import OPS, SIZE, assert_alike, in_a_fresh_process, network, outputs

pytestmark = pytest.mark.gpu

DIRECT = sorted(n for n, op in _op.REGISTRY.items() if op.direct is not None and (n, "cuda") not in NOT_WRITTEN)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("name", DIRECT)
def test_direct_call(name, layout, monkeypatch):
    """Served without the dispatcher, and with the same result to the bit."""
    op = _op.REGISTRY[name]
    cases = [c for c in CASES if c.op == name and "cuda" in c.backends and layout in c.layouts][:3]
    assert cases
    for case in cases:
        args = case.build(torch.float16, layout, "cuda")
        want = tensors(op._run(*args))
        with monkeypatch.context() as patched:
            patched.setattr(op, "_run", None)
            got = tensors(op(*args))
        for g, w in zip(got, want, strict=True):
            assert g.stride() == w.stride() and torch.equal(g, w)


def test_direct_call_refuses_what_the_op_refuses():
    x = torch.randn(2, 8, 5, 5, device="cuda")
    with pytest.raises(ValueError, match="weight"):
        cnnkernels.ops.dwconv_bn_act(x, x.new_ones(7, 1, 3, 3), x.new_ones(8), x.new_zeros(8))
    with pytest.raises(ValueError, match="cpu"):
        cnnkernels.ops.dwconv_bn_act(x, torch.ones(8, 1, 3, 3), x.new_ones(8), x.new_zeros(8))
    assert cnnkernels.ops.mish(x.double()).dtype is torch.float64  # no CUDA kernel: reference
    gaps = x[:, ::2]
    torch.testing.assert_close(cnnkernels.ops.mish(gaps), torch.nn.functional.mish(gaps))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("residual", [False, True])
def test_pointwise_module_is_one_op(dtype, residual):
    torch.manual_seed(0)
    module = ConvBNAct(32, 64, 1, act="relu6")
    randomise(module)
    module = module.eval().to("cuda", dtype)
    x = torch.randn(2, 32, 9, 9, device="cuda", dtype=dtype).contiguous(memory_format=torch.channels_last)
    added = torch.randn(2, 64, 9, 9, device="cuda", dtype=dtype) if residual else None
    with torch.no_grad(), cnnkernels.record_backends() as runs:
        y = module(x, added)
    assert [(r.op, r.backend) for r in runs] == [("pointwise_conv_bn_act", "cuda")]
    exact = module.double()
    with torch.no_grad():
        want = exact.act(exact.bn(exact.conv(x.double()))) + (0 if added is None else added.double())
    torch.testing.assert_close(y.double(), want, rtol=2e-2, atol=2e-2)


def graphed(model, x):
    """The outputs of a graph captured on an input of zeros, replayed for x."""
    given = torch.zeros_like(x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            outputs(model, given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = outputs(model, given)
    given.copy_(x)
    graph.replay()
    torch.cuda.synchronize()
    return found


@pytest.fixture
def on_gpu():
    """A network of the tests of export, moved there for a while; without TF32, as the CPU computes."""
    moved = []

    def move(name):
        moved.append(network(name).to("cuda"))
        return moved[-1]

    with without_tf32():
        yield move
    for model in moved:
        model.to("cpu")


@pytest.mark.parametrize("name", [n for n in OPS if n != "yolox_nano"])
def test_network_in_a_graph(name, on_gpu):
    model, x = on_gpu(name), images(3, SIZE).to("cuda")
    for g, w in zip(graphed(model, x), outputs(model, x), strict=True):
        assert torch.equal(g, w)


def test_detector_in_a_graph(on_gpu):
    """With its NMS: a fixed number of boxes."""
    model, x = on_gpu("yolox_nano"), images(3, SIZE).to("cuda")
    for g, w in zip(graphed(model, x), outputs(model, x), strict=True):
        assert torch.equal(g, w)


@pytest.mark.parametrize("name", OPS)
def test_same_as_on_a_cpu(name, on_gpu):
    x = images(3, SIZE)
    want = outputs(network(name), x)
    got = outputs(on_gpu(name), x.to("cuda"))
    for g, w in zip(got, want, strict=True):
        if w.is_floating_point():
            torch.testing.assert_close(g.cpu(), w, rtol=1e-3, atol=1e-3 * (SIZE if w.dim() == 3 else 1))
        else:
            assert torch.equal(g.cpu(), w)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "yolox_nano"])
def test_package(name, on_gpu, tmp_path):
    model, x = on_gpu(name), images(2, SIZE).to("cuda")
    export.to_package(model, x, tmp_path / "network.pt2")
    torch.save([x], tmp_path / "given.pt")
    files = [tmp_path / n for n in ("network.pt2", "given.pt", "results.pt")]
    done = in_a_fresh_process("from cnnkernels.export import load_package", "load_package", *files)
    assert done.returncode == 0, done.stderr
    (got,) = torch.load(files[2])
    assert_alike([got] if isinstance(got, torch.Tensor) else list(got), model, x, tolerance=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0"])
def test_optimized(name, dtype):
    model = torchvision_model(name)
    randomise(model)
    calibrate(model, SIZE)
    model = model.eval().to("cuda", dtype)
    x = images(4, SIZE).to("cuda", dtype)
    with without_tf32():
        fast, report = optimize(model, x, tune=False)
        assert report.swapped and fast.runs_program()
        (own,), (got,) = outputs(model, x), outputs(fast, x)
        assert torch.equal(graphed(fast, x)[0], got)
        (exact,) = outputs(model.double(), x.double())

    def error(y):
        return float((y - exact).abs().max() / exact.abs().max())

    assert error(got) < max(1.5 * error(own), 1e-4 if dtype is torch.float32 else 1e-2)
