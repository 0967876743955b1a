"""Max pooling in inference: ``cnnkernels.nn.MaxPool2d`` against ``torch.nn.MaxPool2d``, which keeps indices as well."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cnnkernels.nn import MaxPool2d

from .arena import BATCHES, DEVICE, DTYPES, Group
from .rivals import FORMATS, eager_calls, no_grad
from .shapes import MAX_POOL

CONTENDERS = ["ours", "eager channels_last", "eager nchw", "copy"]
SPECS = [(s, b, d) for s in MAX_POOL for b in BATCHES for d in DTYPES]


def build(spec) -> Group:
    shape, batch, dtype = spec
    torch.manual_seed(0)
    window = shape.kernel, shape.stride, shape.padding
    x = torch.randn(batch, shape.channels, shape.size, shape.size, device=DEVICE, dtype=dtype)
    calls = eager_calls(nn.MaxPool2d(*window), x)
    mine, pool = x.contiguous(memory_format=FORMATS["channels_last"]), MaxPool2d(*window)
    calls["ours"] = no_grad(lambda: pool(mine))
    moved = (x.numel() + pool(x).numel()) * x.element_size()
    return Group("max_pool", shape.name(batch), dtype, "channels_last", moved, calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s[0].name(s[1])} {s[2]}")
def bench_max_pool(benchmark, arena, spec, contender):
    arena.run(benchmark, ("max_pool", spec), lambda: build(spec), contender)
