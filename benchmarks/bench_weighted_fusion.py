"""BiFPN's weighted fusion with its activation, in inference and as a training step, against the operators it consists of."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import cnnkernels
from cnnkernels import ops

from .arena import BATCHES, DEVICE, DTYPES, OURS, Group
from .rivals import FORMATS, no_grad, on_backend
from .shapes import FUSION

CONTENDERS = [*(f"ours {b}" for b in OURS), "eager channels_last", "eager nchw", "copy"]
SPECS = [
    (s, b, d, l, train) for train in (False, True) for s in FUSION for b in BATCHES for d in DTYPES for l in FORMATS
]


def composed(maps: list[Tensor], weights: Tensor) -> Tensor:
    """With as few passes as PyTorch's operators allow."""
    w = weights.relu().to(maps[0].dtype)
    w = w / (w.sum() + 1e-4)
    y = maps[0] * w[0]
    for i, x in enumerate(maps[1:], 1):
        y.addcmul_(x, w[i])
    return F.silu(y, inplace=True)


def build(spec) -> Group:
    shape, batch, dtype, layout, train = spec
    torch.manual_seed(0)
    size = batch, shape.channels, shape.size, shape.size
    xs = [torch.randn(size, device=DEVICE, dtype=dtype) for _ in range(shape.extra)]
    grad, weights = torch.randn(size, device=DEVICE, dtype=dtype), torch.rand(shape.extra, device=DEVICE) + 0.1

    def call(function, fmt):
        maps = [x.contiguous(memory_format=FORMATS[fmt]) for x in xs]
        g, w = grad.contiguous(memory_format=FORMATS[fmt]), weights.clone()
        if not train:
            return no_grad(lambda: function(maps, w))
        leaves = [t.requires_grad_() for t in (*maps, w)]

        def step():
            result = function(maps, w)
            return result, *torch.autograd.grad(result, leaves, g)

        return step

    calls = {f"eager {fmt}": call(composed, fmt) for fmt in FORMATS}
    for backend in OURS:
        with cnnkernels.use_backend(backend):
            calls[f"ours {backend}"] = on_backend(
                backend, call(lambda maps, w: ops.weighted_fusion(maps, w, act="silu"), layout)
            )
    # the maps read and y written; then they and the gradient of y read, and theirs written
    moved = (3 * shape.extra + 2 if train else shape.extra + 1) * xs[0].numel() * xs[0].element_size()
    name = f"{shape.extra} maps {shape.name(batch)}"
    return Group("weighted_fusion training" if train else "weighted_fusion", name, dtype, layout, moved, calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize(
    "spec",
    SPECS,
    ids=lambda s: f"{s[0].extra} maps {s[0].name(s[1])} {s[2]} {s[3]} {'training' if s[4] else 'inference'}",
)
def bench_weighted_fusion(benchmark, arena, spec, contender):
    arena.run(benchmark, ("weighted_fusion", spec), lambda: build(spec), contender)
