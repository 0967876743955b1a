"""Every op under torch.compile and torch.export: one node in one graph, and the results of the eager call."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor

import cnnkernels
from cnnkernels import _ext, _op

from .cases import CASES, NOT_WRITTEN, TABLE
from .test_contract import tensors

pytestmark = pytest.mark.skipif(_ext.module is None, reason=str(_ext.error))
NAMES = sorted(_op.REGISTRY)


def call_of(name, layout="nchw"):
    """(a function of tensors alone, the tensors of its first small case, and which of them take x's dtype and layout)."""
    case = next(c for c in CASES if c.op == name and all(t.numel() for t in tensors(c.args())) and not c.slow)
    if layout not in case.layouts:
        pytest.skip("the case has no such layout")
    args = case.build(torch.float32, layout)
    places = [i for i, a in enumerate(args) if isinstance(a, Tensor)]

    def call(*given):
        filled = list(args)
        for i, t in zip(places, given, strict=True):
            filled[i] = t
        return _op.REGISTRY[name](*filled)

    return call, [args[i] for i in places], [i in case.data for i in places]


def step(call, inputs, grad):
    """Outputs, and if there are any, gradients of a functional of them."""
    if not grad:
        return tensors(call(*inputs))
    leaves = [t.detach().clone(memory_format=torch.preserve_format) for t in inputs]
    leaves = [t.requires_grad_() if t.is_floating_point() else t for t in leaves]
    outputs = tensors(call(*leaves))
    loss = torch.stack([(o * o).sum() for o in outputs if o.requires_grad]).sum()
    wanted = [t for t in leaves if t.requires_grad]
    return [*outputs, *torch.autograd.grad(loss, wanted, allow_unused=True)]


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_compiled(name, dynamic, layout):
    call, inputs, _ = call_of(name, layout)
    grad = TABLE[name].grad_tolerance is not None and not name.endswith("_backward")
    torch._dynamo.reset()
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True), cnnkernels.record_backends() as runs:
        got = step(compiled, inputs, grad)
    assert {r.backend for r in runs} == {"cpu"}
    assert name in {r.op for r in runs}
    for g, w in zip(got, step(call, inputs, grad), strict=True):
        assert (g is None) == (w is None)
        if g is not None:
            assert g.stride() == w.stride() or not g.numel()
            torch.testing.assert_close(g, w, rtol=1e-6, atol=1e-6)


class Call(torch.nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, *given):
        return self.call(*given)


@pytest.mark.parametrize("name", NAMES)
def test_exported_saved_and_loaded(name):
    call, inputs, _ = call_of(name)
    program = torch.export.export(Call(call), tuple(inputs))
    nodes = [str(n.target) for n in program.graph.nodes if n.op == "call_function" and "cnnkernels" in str(n.target)]
    assert nodes == [f"cnnkernels.{name}.default"]
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    with cnnkernels.record_backends() as runs:
        got = tensors(loaded(*inputs))
    assert [(r.op, r.backend) for r in runs] == [(name, "cpu")]
    for g, w in zip(got, tensors(call(*inputs)), strict=True):
        assert torch.equal(g, w)


BATCHED = [n for n in NAMES if not n.endswith("_backward") and n != "nms"]


@pytest.mark.parametrize("name", BATCHED)
def test_exported_for_any_batch_size(name):
    call, inputs, data = call_of(name)
    batched = [d or (name == "nms_padded" and t.dim() > 1) for t, d in zip(inputs, data, strict=True)]
    shapes = tuple({0: torch.export.Dim.DYNAMIC} if b else None for b in batched)
    program = torch.export.export(Call(call), tuple(inputs), dynamic_shapes=(shapes,))
    for n in (1, 5):
        other = [t[:1].repeat(n, *[1] * (t.dim() - 1)) * 2 if b else t for t, b in zip(inputs, batched, strict=True)]
        for g, w in zip(tensors(program.module()(*other)), tensors(call(*other)), strict=True):
            assert torch.equal(g, w)


@pytest.mark.parametrize("backend", ["reference", "cpu", "cuda"], indirect=True)
@pytest.mark.parametrize("name", NAMES)
def test_deterministic(name, backend):
    """Twice the same bits, also where PyTorch is told to refuse anything else."""
    if (name, backend) in NOT_WRITTEN:
        pytest.skip("not written")
    call, inputs, _ = call_of(name)
    grad = TABLE[name].grad_tolerance is not None
    torch.use_deterministic_algorithms(True)
    try:
        with cnnkernels.record_backends() as runs:
            first, second = step(call, inputs, grad), step(call, inputs, grad)
    finally:
        torch.use_deterministic_algorithms(False)
    assert {r.backend for r in runs} == {backend}
    assert all(a is b or torch.equal(a, b) for a, b in zip(first, second, strict=True))
