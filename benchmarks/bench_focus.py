"""Focus, forward and backward, against four slices and a concatenation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cnnkernels
from cnnkernels import ops

from .arena import BATCHES, DEVICE, DTYPES, OURS, Group
from .rivals import FORMATS, no_grad, on_backend
from .shapes import FOCUS

CONTENDERS = [*(f"ours {b}" for b in OURS), "eager channels_last", "eager nchw", "copy"]
SPECS = [(s, b, d, l, back) for back in (False, True) for s in FOCUS for b in BATCHES for d in DTYPES for l in FORMATS]


def sliced(x: Tensor) -> Tensor:
    """As YOLOX writes it."""
    return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)


def build(spec) -> Group:
    shape, batch, dtype, layout, backward = spec
    torch.manual_seed(0)
    x = torch.randn(batch, shape.channels, shape.size, shape.size, device=DEVICE, dtype=dtype)
    grad = torch.randn_like(sliced(x))

    def call(function, fmt):
        y = x.contiguous(memory_format=FORMATS[fmt])
        if not backward:
            return no_grad(lambda: function(y))
        result, g = function(y.requires_grad_()), grad.contiguous(memory_format=FORMATS[fmt])
        return lambda: torch.autograd.grad(result, y, g, retain_graph=True)

    calls = {f"eager {fmt}": call(sliced, fmt) for fmt in FORMATS}
    for backend in OURS:
        with cnnkernels.use_backend(backend):
            calls[f"ours {backend}"] = on_backend(backend, call(ops.focus, layout))
    op = "focus backward" if backward else "focus"
    return Group(op, shape.name(batch), dtype, layout, 2 * x.numel() * x.element_size(), calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize(
    "spec", SPECS, ids=lambda s: f"{s[0].name(s[1])} {s[2]} {s[3]} {'backward' if s[4] else 'forward'}"
)
def bench_focus(benchmark, arena, spec, contender):
    arena.run(benchmark, ("focus", spec), lambda: build(spec), contender)
