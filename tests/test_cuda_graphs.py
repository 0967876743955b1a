"""Every op in a CUDA graph: captured once, replayed on other values, equal to the call.

The one exception is ``nms``, whose result has a size that the host has to wait for; ``nms_padded`` is for graphs.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cnnkernels
from cnnkernels import _op

from .cases import CASES, NOT_WRITTEN
from .test_contract import tensors

pytestmark = pytest.mark.gpu

WAITS = {"nms"}
PAIRS = [
    (name, backend)
    for name in sorted(_op.REGISTRY.keys() - WAITS)
    for backend in ("cuda", "triton")
    if (name, backend) not in NOT_WRITTEN
] + [(name, "reference") for name in sorted({name for name, _ in NOT_WRITTEN})]  # what serves CUDA tensors there


def sample(name, device):
    """The arguments of the op's first small case, and the same with other values in what has the dtype under test."""
    case = next(c for c in CASES if c.op == name and all(t.numel() for t in tensors(c.args())) and not c.slow)
    args = case.build(torch.float32, "nchw", device)
    others = [a.flip(0, -1).clone() if i in case.data and isinstance(a, Tensor) else a for i, a in enumerate(args)]
    return args, others


def replayed(op, args, others):
    """The outputs of a graph that was captured on ``args``, for ``others``."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles, loads and allocates
        for _ in range(2):
            op(*args)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = tensors(op(*args))
    for a, other in zip(args, others, strict=True):
        if isinstance(a, Tensor):
            a.copy_(other)
    for output in outputs:
        output.fill_(-7)
    graph.replay()
    torch.cuda.synchronize()
    return outputs


@pytest.mark.parametrize(("name", "backend"), PAIRS, indirect=["backend"])
def test_captured_and_replayed(name, backend):
    args, others = sample(name, "cuda")
    op = _op.REGISTRY[name]
    with cnnkernels.record_backends() as runs:
        first, want = tensors(op(*args)), tensors(op(*others))
    assert {r.backend for r in runs} == {backend}
    assert any(not torch.equal(f, w) for f, w in zip(first, want, strict=True))  # or a replay would show nothing
    for got, w in zip(replayed(op, args, others), want, strict=True):
        assert torch.equal(got, w)
