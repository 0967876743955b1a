"""Squeeze-and-excitation at the shapes of EfficientNet-B0 and MobileNetV3."""

from __future__ import annotations

import copy

import pytest
import torch

from cnnkernels import ops

from .arena import BATCHES, DEVICE, DTYPES, FULL, OURS, Group
from .rivals import FORMATS, SqueezeExcitation, compiled, eager_calls, no_grad, on_backend
from .shapes import SQUEEZE_EXCITE

CONTENDERS = [*(f"ours {b}" for b in OURS), "eager channels_last", "eager nchw", "compile", "copy"]
SPECS = [(s, b, d, l) for s in SQUEEZE_EXCITE for b in BATCHES for d in DTYPES for l in FORMATS]


def build(spec) -> Group:
    shape, batch, dtype, layout = spec
    torch.manual_seed(0)
    module = SqueezeExcitation(shape.channels, shape.extra, shape.act).eval().to(DEVICE, dtype)
    x = torch.randn(batch, shape.channels, shape.size, shape.size, device=DEVICE, dtype=dtype)
    calls = eager_calls(module, x)
    mine = x.contiguous(memory_format=FORMATS[layout])
    weights = [t.detach() for t in (module.fc1.weight, module.fc1.bias, module.fc2.weight, module.fc2.bias)]
    for backend in OURS:
        ours = no_grad(lambda: ops.squeeze_excite(mine, *weights, act=shape.act))
        calls[f"ours {backend}"] = on_backend(backend, ours)
    if FULL:
        calls["compile"] = compiled(copy.deepcopy(module), mine)
    name = f"{shape.name(batch)} r{shape.extra}"
    return Group("squeeze_excite", name, dtype, layout, 3 * x.numel() * x.element_size(), calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s[0].name(s[1])} {s[2]} {s[3]}")
def bench_squeeze_excite(benchmark, arena, spec, contender):
    arena.run(benchmark, ("se", spec), lambda: build(spec), contender)
