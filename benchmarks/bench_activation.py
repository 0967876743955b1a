"""Mish forward and backward against F.mish, and every other activation against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnkernels
from cnnkernels import _activation, ops

from .arena import BATCHES, DEVICE, DTYPES, OURS, Group
from .rivals import clear_of_corners, no_grad, on_backend
from .shapes import ACTIVATION

CONTENDERS = [*(f"ours {b}" for b in OURS), "eager", "copy"]
OTHERS = ["relu6", "leaky_relu(0.1)", "silu", "hard_swish", "sigmoid", "hard_sigmoid"]


def _group(op, shape, batch, dtype, act, backward) -> Group:
    torch.manual_seed(0)
    x = torch.randn(batch, shape.channels, shape.size, shape.size, device=DEVICE, dtype=dtype)
    theirs = F.mish if act == "mish" else (lambda t: _activation.reference(t, act))
    calls = {}
    if backward:
        g = clear_of_corners(torch.randn_like(x), nn.Sequential(nn.Identity(), nn.Identity()), x, act)
        a = x.requires_grad_()
        y = theirs(a)
        calls["eager"] = lambda: torch.autograd.grad(y, a, g, retain_graph=True)
        for backend in OURS:
            with cnnkernels.use_backend(backend):
                z = ops.activation(a, act)
            calls[f"ours {backend}"] = on_backend(backend, lambda z=z: torch.autograd.grad(z, a, g, retain_graph=True))
    else:
        calls["eager"] = no_grad(lambda: theirs(x))
        for backend in OURS:
            calls[f"ours {backend}"] = on_backend(backend, no_grad(lambda: ops.activation(x, act)))
    name = shape.name(batch) if act == "mish" else f"{act} {shape.name(batch)}"
    return Group(op, name, dtype, "any", (3 if backward else 2) * x.numel() * x.element_size(), calls)


MISH = [(s, b, d, back) for back in (False, True) for s in ACTIVATION for b in BATCHES for d in DTYPES]


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("spec", MISH, ids=lambda s: f"{s[0].name(s[1])} {s[2]} {'backward' if s[3] else 'forward'}")
def bench_mish(benchmark, arena, spec, contender):
    shape, batch, dtype, backward = spec
    name = "mish backward" if backward else "mish forward"
    arena.run(benchmark, ("mish", spec), lambda: _group(name, shape, batch, dtype, "mish", backward), contender)


OTHER = [(a, s, back) for a in OTHERS for s in (ACTIVATION[1], ACTIVATION[4]) for back in (False, True)]


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("spec", OTHER, ids=lambda s: f"{s[0]} {s[1].name(1)} {'backward' if s[2] else 'forward'}")
def bench_other(benchmark, arena, spec, contender):
    act, shape, backward = spec
    name = f"activation {'backward' if backward else 'forward'}"
    arena.run(benchmark, ("other", spec), lambda: _group(name, shape, 1, DTYPES[0], act, backward), contender)
