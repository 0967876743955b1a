"""BN + activation after a dense convolution, inference and training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cnnkernels import ops

from .arena import BATCHES, DEVICE, DTYPES, FULL, OURS, Group
from .rivals import ACTS, FORMATS, batch_norm, clear_of_corners, compiled, eager_calls, fold, no_grad, on_backend
from .shapes import BN_ACT

CONTENDERS = [*(f"ours {b}" for b in OURS), "eager channels_last", "eager nchw", "compile", "copy"]
SPECS = [(s, b, d, l) for s in BN_ACT for b in BATCHES for d in DTYPES for l in FORMATS]


def spec_id(spec) -> str:
    return f"{spec[0].name(spec[1])} {spec[0].act} {spec[2]} {spec[3]}"


def _module(shape, dtype):
    bn, act = batch_norm(shape.channels).to(DEVICE, dtype), ACTS[shape.act]()
    return nn.Sequential(bn, act)


def build_inference(spec) -> Group:
    shape, batch, dtype, layout = spec
    torch.manual_seed(0)
    module = _module(shape, dtype).eval()
    x = torch.randn(batch, shape.channels, shape.size, shape.size, device=DEVICE, dtype=dtype)
    calls = eager_calls(module, x)
    scale, shift = fold(module[0])
    mine = x.contiguous(memory_format=FORMATS[layout])
    for backend in OURS:
        ours = no_grad(lambda: ops.bn_act(mine, scale, shift, act=shape.act))
        calls[f"ours {backend}"] = on_backend(backend, ours)
    if FULL:
        calls["compile"] = compiled(copy.deepcopy(module), mine)
    return Group("bn_act", f"{shape.name(batch)} {shape.act}", dtype, layout, 2 * x.numel() * x.element_size(), calls)


def build_training(spec) -> Group:
    shape, batch, dtype, layout = spec
    torch.manual_seed(0)
    module = _module(shape, dtype).train()
    x = torch.randn(batch, shape.channels, shape.size, shape.size, device=DEVICE, dtype=dtype)
    grad = clear_of_corners(torch.randn_like(x), module, x, shape.act)
    calls = {}
    for name, fmt in FORMATS.items():
        m, a, g = copy.deepcopy(module), x.clone(memory_format=fmt).requires_grad_(), grad.contiguous(memory_format=fmt)
        calls[f"eager {name}"] = lambda m=m, a=a, g=g: torch.autograd.grad(m(a), [a, *m.parameters()], g)
    bn = module[0]
    a, g = x.clone(memory_format=FORMATS[layout]).requires_grad_(), grad.contiguous(memory_format=FORMATS[layout])
    for backend in OURS:

        def ours():
            y = ops.bn_act_train(
                a, bn.weight, bn.bias, bn.running_mean, bn.running_var, eps=bn.eps, momentum=0.1, act=shape.act
            )
            return torch.autograd.grad(y, [a, bn.weight, bn.bias], g)

        calls[f"ours {backend}"] = on_backend(backend, ours)
    nbytes = (3 + 5) * x.numel() * x.element_size()  # forward: stats, apply; backward: reduce, apply
    return Group("bn_act_train fwd+bwd", f"{shape.name(batch)} {shape.act}", dtype, layout, nbytes, calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def bench_inference(benchmark, arena, spec, contender):
    arena.run(benchmark, ("bn_act", spec), lambda: build_inference(spec), contender)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def bench_training(benchmark, arena, spec, contender):
    arena.run(benchmark, ("bn_act_train", spec), lambda: build_training(spec), contender)
