"""``cnnkernels.optimize(model, x)`` on torchvision's models in inference, against what else one line or one export gives.

onnxruntime and OpenVINO have threads of their own: each runs in a process of its own that sleeps while the others are timed.
"""

from __future__ import annotations

import copy

import pytest
import torch

import cnnkernels
from tests.networks.case import calibrate
from tests.oracles import torchvision_model

from .arena import BATCHES, DEVICE, DTYPES, FULL, Group
from .bench_networks import NETWORKS, frozen
from .engine_process import ENGINES, EngineProcess, installed
from .rivals import FORMATS, compiled, no_grad

OTHERS = ("resnet50", "vgg16_bn", "squeezenet1_0", "inception_v3")
CONTENDERS = ["ours optimize", "eager channels_last", "eager nchw", "compile", "compile freezing", *ENGINES]
SPECS = [(n, b, d) for n in (*NETWORKS, *(OTHERS if FULL else ())) for b in BATCHES for d in DTYPES]


def build(spec) -> Group:
    name, batch, dtype = spec
    torch.manual_seed(0)
    size = 299 if name == "inception_v3" else 224
    plain = torchvision_model(name)
    calibrate(plain, 96 if name != "inception_v3" else 139)
    plain = plain.eval().to(DEVICE, dtype)
    x = torch.randn(batch, 3, size, size, device=DEVICE, dtype=dtype)
    fast, report = cnnkernels.optimize(plain, x, tune=False)
    assert report.swapped and fast.runs_program()
    calls = {"ours optimize": no_grad(lambda: fast(x))}
    for layout, fmt in FORMATS.items():
        model, y = copy.deepcopy(plain).to(memory_format=fmt), x.contiguous(memory_format=fmt)
        calls[f"eager {layout}"] = no_grad(lambda model=model, y=y: model(y))
    if FULL:
        last, modules = x.contiguous(memory_format=torch.channels_last), plain.to(memory_format=torch.channels_last)
        calls["compile"] = compiled(copy.deepcopy(modules), last)
        calls["compile freezing"] = frozen(copy.deepcopy(modules), last)
        if DEVICE == "cpu" and dtype is torch.float32:
            calls |= {engine: EngineProcess(engine, plain, x) for engine in ENGINES if installed(engine)}
    moved = sum(p.numel() for p in plain.parameters()) * x.element_size() + x.numel() * x.element_size()
    return Group("optimize", f"torchvision {name} b{batch}", dtype, "any", moved, calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s[0]} b{s[1]} {str(s[2]).removeprefix('torch.')}")
def bench_optimize(benchmark, arena, spec, contender):
    arena.run(benchmark, ("optimize", spec), lambda: build(spec), contender)
