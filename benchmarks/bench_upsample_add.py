"""A coarse map enlarged and added to a finer one, in inference and as a training step, against interpolate and add."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import cnnkernels
from cnnkernels import ops

from .arena import BATCHES, DEVICE, DTYPES, OURS, Group
from .rivals import FORMATS, no_grad, on_backend
from .shapes import UPSAMPLE

CONTENDERS = [*(f"ours {b}" for b in OURS), "eager channels_last", "eager nchw", "copy"]
SPECS = [
    (s, b, d, l, train) for train in (False, True) for s in UPSAMPLE for b in BATCHES for d in DTYPES for l in FORMATS
]


def composed(x: Tensor, y: Tensor) -> Tensor:
    return F.interpolate(x, size=y.shape[2:], mode="nearest") + y


def build(spec) -> Group:
    shape, batch, dtype, layout, train = spec
    torch.manual_seed(0)
    small = (shape.size + 1) // 2
    coarse = torch.randn(batch, shape.channels, small, small, device=DEVICE, dtype=dtype)
    fine, grad = (
        torch.randn(batch, shape.channels, shape.size, shape.size, device=DEVICE, dtype=dtype) for _ in range(2)
    )

    def call(function, fmt):
        x, y, g = (t.contiguous(memory_format=FORMATS[fmt]) for t in (coarse, fine, grad))
        if not train:
            return no_grad(lambda: function(x, y))
        x.requires_grad_()
        y.requires_grad_()

        def step():
            result = function(x, y)
            return result, *torch.autograd.grad(result, (x, y), g)

        return step

    calls = {f"eager {fmt}": call(composed, fmt) for fmt in FORMATS}
    for backend in OURS:
        with cnnkernels.use_backend(backend):
            calls[f"ours {backend}"] = on_backend(backend, call(ops.upsample_add, layout))
    # x and y read, the sum written; then its gradient read and that of x written
    moved = ((2 if train else 1) * coarse.numel() + (3 if train else 2) * fine.numel()) * fine.element_size()
    op = "upsample_add training" if train else "upsample_add"
    return Group(op, shape.name(batch), dtype, layout, moved, calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize(
    "spec", SPECS, ids=lambda s: f"{s[0].name(s[1])} {s[2]} {s[3]} {'training' if s[4] else 'inference'}"
)
def bench_upsample_add(benchmark, arena, spec, contender):
    arena.run(benchmark, ("upsample_add", spec), lambda: build(spec), contender)
