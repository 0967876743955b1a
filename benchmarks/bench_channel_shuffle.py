"""Channel shuffle, and ShuffleNetV2's concat + shuffle + split."""

from __future__ import annotations

import pytest
import torch

from cnnkernels import ops

from .arena import BATCHES, DEVICE, DTYPES, OURS, Group
from .rivals import FORMATS, channel_shuffle, no_grad, on_backend
from .shapes import SHUFFLE

CONTENDERS = [*(f"ours {b}" for b in OURS), "eager channels_last", "eager nchw", "copy"]
SPECS = [(s, b, d, l) for s in SHUFFLE for b in BATCHES for d in DTYPES for l in FORMATS]
CONCAT_SPECS = [s for s in SPECS if s[0].network == "shufflenet_v2"]


def spec_id(spec) -> str:
    return f"{spec[0].name(spec[1])} g{spec[0].extra} {spec[2]} {spec[3]}"


def build_shuffle(spec) -> Group:
    shape, batch, dtype, layout = spec
    torch.manual_seed(0)
    x = torch.randn(batch, shape.channels, shape.size, shape.size, device=DEVICE, dtype=dtype)
    calls = {}
    for name, fmt in FORMATS.items():
        y = x.contiguous(memory_format=fmt)
        # the result in the layout of the input, as the next convolution wants it
        calls[f"eager {name}"] = no_grad(lambda y=y, f=fmt: channel_shuffle(y, shape.extra).contiguous(memory_format=f))
    mine = x.contiguous(memory_format=FORMATS[layout])
    for backend in OURS:
        calls[f"ours {backend}"] = on_backend(backend, no_grad(lambda: ops.channel_shuffle(mine, shape.extra)))
    name = f"{shape.name(batch)} g{shape.extra}"
    return Group("channel_shuffle", name, dtype, layout, 2 * x.numel() * x.element_size(), calls)


def build_concat(spec) -> Group:
    shape, batch, dtype, layout = spec
    torch.manual_seed(0)
    half = shape.channels // 2
    a, b = (torch.randn(batch, half, shape.size, shape.size, device=DEVICE, dtype=dtype) for _ in range(2))
    calls = {}
    for name, fmt in FORMATS.items():
        c, d = a.contiguous(memory_format=fmt), b.contiguous(memory_format=fmt)

        def eager(c=c, d=d, fmt=fmt):
            halves = channel_shuffle(torch.cat((c, d), 1), 2).chunk(2, 1)
            return tuple(h.contiguous(memory_format=fmt) for h in halves)

        calls[f"eager {name}"] = no_grad(eager)
    c, d = (t.contiguous(memory_format=FORMATS[layout]) for t in (a, b))
    for backend in OURS:
        calls[f"ours {backend}"] = on_backend(backend, no_grad(lambda: ops.concat_shuffle_split(c, d, 2)))
    return Group("concat_shuffle_split", shape.name(batch), dtype, layout, 4 * a.numel() * a.element_size(), calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def bench_shuffle(benchmark, arena, spec, contender):
    arena.run(benchmark, ("shuffle", spec), lambda: build_shuffle(spec), contender)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("spec", CONCAT_SPECS, ids=spec_id)
def bench_concat_shuffle_split(benchmark, arena, spec, contender):
    arena.run(benchmark, ("concat", spec), lambda: build_concat(spec), contender)
