"""Spatial pyramid pooling, in inference and as a training step, against three max pools and a concatenation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import cnnkernels
from cnnkernels import ops

from .arena import BATCHES, DEVICE, DTYPES, OURS, Group
from .rivals import FORMATS, no_grad, on_backend
from .shapes import SPP

CONTENDERS = [*(f"ours {b}" for b in OURS), "eager channels_last", "eager nchw", "copy"]
SPECS = [(s, b, d, l, train) for train in (False, True) for s in SPP for b in BATCHES for d in DTYPES for l in FORMATS]


def pooled(x: Tensor) -> Tensor:
    return torch.cat([x] + [F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13)], 1)


def build(spec) -> Group:
    shape, batch, dtype, layout, train = spec
    torch.manual_seed(0)
    # All different in every type, so that no tie makes gradients a matter of whose comes first.
    size = batch * shape.channels, shape.size * shape.size
    x = torch.rand(size, device=DEVICE).argsort(1).add(1).to(dtype).view(batch, shape.channels, shape.size, shape.size)
    grad = torch.randn(batch, 4 * shape.channels, shape.size, shape.size, device=DEVICE, dtype=dtype)

    def call(function, fmt):
        y, g = (t.contiguous(memory_format=FORMATS[fmt]) for t in (x, grad))
        if not train:
            return no_grad(lambda: function(y))
        y.requires_grad_()

        def step():
            result = function(y)
            return result, *torch.autograd.grad(result, y, g)

        return step

    calls = {f"eager {fmt}": call(pooled, fmt) for fmt in FORMATS}
    for backend in OURS:
        with cnnkernels.use_backend(backend):
            calls[f"ours {backend}"] = on_backend(backend, call(ops.spp, layout))
    # x read and y written; then x and the gradient of y read, and that of x written
    moved = (11 if train else 5) * x.numel() * x.element_size()
    return Group("spp training" if train else "spp", shape.name(batch), dtype, layout, moved, calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize(
    "spec", SPECS, ids=lambda s: f"{s[0].name(s[1])} {s[2]} {s[3]} {'training' if s[4] else 'inference'}"
)
def bench_spp(benchmark, arena, spec, contender):
    arena.run(benchmark, ("spp", spec), lambda: build(spec), contender)
