"""Classifiers in inference: ``cnnkernels.nn.Linear`` against ``torch.nn.Linear``.

A network between two calls leaves nothing of its classifier's weights in the caches, so every contender goes round several
layers, 64 MB in all.
"""

from __future__ import annotations

from itertools import cycle

import pytest
import torch
from torch import nn

from cnnkernels.nn import Linear

from .arena import BATCHES, DEVICE, Group
from .rivals import no_grad
from .shapes import CLASSIFIERS

CONTENDERS = ["ours", "eager"]
SPECS = [(s, b) for s in CLASSIFIERS for b in BATCHES]


def build(spec) -> Group:
    shape, batch = spec
    torch.manual_seed(0)
    size = 4 * shape.c_in * shape.c_out
    x = torch.randn(batch, shape.c_in, device=DEVICE)
    layers = [nn.Linear(shape.c_in, shape.c_out, device=DEVICE) for _ in range(max(1, 2**26 // size))]
    mine = [Linear(shape.c_in, shape.c_out, device=DEVICE) for _ in layers]
    for a, b in zip(mine, layers, strict=True):
        a.weight, a.bias = b.weight, b.bias
    next_mine, next_layer = cycle(mine), cycle(layers)
    calls = {"ours": no_grad(lambda: next(next_mine)(x)), "eager": no_grad(lambda: next(next_layer)(x))}
    moved = size + x.numel() * 4 + batch * shape.c_out * 4
    return Group("linear", shape.name(batch), torch.float32, "any", moved, calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s[0].name(s[1]))
def bench_linear(benchmark, arena, spec, contender):
    arena.run(benchmark, ("linear", spec), lambda: build(spec), contender)
