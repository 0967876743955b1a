"""Whole networks in inference: fused against eager modules, torch.compile plain and freezing, and onnxruntime.

onnxruntime has threads of its own, so it runs in a process of its own that is stopped while the others are timed.
"""

from __future__ import annotations

import copy

import pytest
import torch

from cnnkernels.models import create_model, model_entry
from tests.networks.case import calibrate
from tests.oracles import torchvision_model

from .arena import BATCHES, DEVICE, DTYPES, FULL, Group
from .engine_process import EngineProcess
from .rivals import FORMATS, compiled, no_grad

NETWORKS = ("mobilenet_v2", "mobilenet_v3_large", "shufflenet_v2_x1_0", "efficientnet_b0")
OTHERS = ("resnet50", "mobilenet_v1", "squeezenet1_1", "densenet121", "vgg16_bn", "repvgg_a0", "ghostnet")
CONTENDERS = ["ours", "eager channels_last", "eager nchw", "compile", "compile freezing", "onnxruntime"]
SPECS = [(n, b, d) for n in (*NETWORKS, *(OTHERS if FULL else ())) for b in BATCHES for d in DTYPES]


def frozen(model: torch.nn.Module, x: torch.Tensor):
    """torch.compile with weights as constants, which lets it fold BatchNorm and reorder them."""
    import torch._inductor.config as inductor

    with inductor.patch(freezing=True):
        call = compiled(model, x)
        call()
    return call


def of_torchvision(name: str, weights: torch.nn.Module) -> torch.nn.Module:
    """Their network with our weights: its layers are all ones that ONNX has."""
    model = torchvision_model(name)
    model.load_state_dict(weights.state_dict())
    return model.eval()


def build(spec) -> Group:
    name, batch, dtype = spec
    torch.manual_seed(0)
    size = model_entry(name).input_size
    plain = create_model(name, backend="reference")
    calibrate(plain, 96)
    plain = plain.eval().to(DEVICE, dtype)
    fused = copy.deepcopy(plain)
    fused.backend = None
    x = torch.randn(batch, 3, size, size, device=DEVICE, dtype=dtype)
    calls = {}
    for layout, fmt in FORMATS.items():
        model, y = copy.deepcopy(plain).to(memory_format=fmt), x.contiguous(memory_format=fmt)
        calls[f"eager {layout}"] = no_grad(lambda model=model, y=y: model(y))
    calls["ours"] = no_grad(lambda: fused(x))
    if FULL:
        last = x.contiguous(memory_format=torch.channels_last)
        modules = copy.deepcopy(plain).to(memory_format=torch.channels_last)
        modules.backend = None  # the choice of backend is no part of the graph; what is traced takes the plain ops
        calls["compile"] = compiled(modules, last)
        calls["compile freezing"] = frozen(copy.deepcopy(modules), last)
        if DEVICE == "cpu" and dtype is torch.float32 and name in NETWORKS:
            calls["onnxruntime"] = EngineProcess("onnxruntime", of_torchvision(name, plain), x)
    moved = sum(p.numel() for p in plain.parameters()) * x.element_size() + x.numel() * x.element_size()
    return Group("network", f"{name} b{batch}", dtype, "any", moved, calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s[0]} b{s[1]} {str(s[2]).removeprefix('torch.')}")
def bench_networks(benchmark, arena, spec, contender):
    arena.run(benchmark, ("network", spec), lambda: build(spec), contender)
