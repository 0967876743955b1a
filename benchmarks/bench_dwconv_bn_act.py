"""Depthwise convolution + BN + activation, inference and training."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from cnnkernels import ops

from .arena import BATCHES, DEVICE, DTYPES, FULL, OURS, Group
from .rivals import FORMATS, clear_of_corners, compiled, conv_bn_act, eager_calls, fold, no_grad, on_backend
from .shapes import COMPILED_WHEN_QUICK, DEPTHWISE, DEPTHWISE_TRAIN

CONTENDERS = [*(f"ours {b}" for b in OURS), "eager channels_last", "eager nchw", "folded by hand", "compile", "copy"]


def spec_id(spec) -> str:
    shape, batch, dtype, layout = spec
    return f"{shape.name(batch)} {str(dtype).removeprefix('torch.')} {layout}"


def specs(shapes):
    return [(s, b, d, l) for s in shapes for b in BATCHES for d in DTYPES for l in FORMATS]


def build_inference(spec) -> Group:
    shape, batch, dtype, layout = spec
    torch.manual_seed(0)
    module = conv_bn_act(shape.channels, shape.kernel, shape.stride, shape.act).eval().to(DEVICE, dtype)
    x = torch.randn(batch, shape.channels, shape.size, shape.size, device=DEVICE, dtype=dtype)
    calls = eager_calls(module, x)
    conv, bn, act = module
    weight, (scale, shift), pad = conv.weight.detach(), fold(bn), shape.kernel // 2
    mine = x.contiguous(memory_format=FORMATS[layout])
    for backend in OURS:
        ours = no_grad(
            lambda: ops.dwconv_bn_act(mine, weight, scale, shift, stride=shape.stride, padding=pad, act=shape.act)
        )
        calls[f"ours {backend}"] = on_backend(backend, ours)
    folded, bias = (weight.float() * scale.view(-1, 1, 1, 1)).to(dtype), shift.to(dtype)
    calls["folded by hand"] = no_grad(
        lambda: act(F.conv2d(mine, folded, bias, shape.stride, pad, groups=shape.channels))
    )
    quick = batch == 1 and layout == "channels_last" and (shape.channels, shape.size) in COMPILED_WHEN_QUICK
    if FULL or (DEVICE == "cpu" and quick):
        calls["compile"] = compiled(copy.deepcopy(module).to(memory_format=FORMATS[layout]), mine)
    elements = batch * shape.channels * (shape.size**2 + shape.out**2)
    return Group("dwconv_bn_act", shape.name(batch), dtype, layout, elements * x.element_size(), calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("spec", specs(DEPTHWISE), ids=spec_id)
def bench_inference(benchmark, arena, spec, contender):
    arena.run(benchmark, ("inference", spec), lambda: build_inference(spec), contender)


def build_training(spec) -> Group:
    shape, batch, dtype, layout = spec
    torch.manual_seed(0)
    module = conv_bn_act(shape.channels, shape.kernel, shape.stride, shape.act).train().to(DEVICE, dtype)
    x = torch.randn(batch, shape.channels, shape.size, shape.size, device=DEVICE, dtype=dtype)
    grad = torch.randn(batch, shape.channels, shape.out, shape.out, device=DEVICE, dtype=dtype)
    grad = clear_of_corners(grad, module, x, shape.act)
    calls = {}
    for name, fmt in FORMATS.items():
        m, a = copy.deepcopy(module).to(memory_format=fmt), x.clone(memory_format=fmt).requires_grad_()
        g = grad.contiguous(memory_format=fmt)
        calls[f"eager {name}"] = lambda m=m, a=a, g=g: torch.autograd.grad(m(a), [a, *m.parameters()], g)
    conv, bn, _ = module
    a = x.clone(memory_format=FORMATS[layout]).requires_grad_()
    g = grad.contiguous(memory_format=FORMATS[layout])
    weights = [conv.weight, bn.weight, bn.bias]
    where = {"stride": shape.stride, "padding": shape.kernel // 2, "dilation": 1}
    for backend in OURS:

        def ours():
            buffers = (bn.running_mean, bn.running_var)
            y = ops.dwconv_bn_act_train(a, *weights, *buffers, eps=bn.eps, momentum=0.1, act=shape.act, **where)
            return torch.autograd.grad(y, [a, *weights], g)

        calls[f"ours {backend}"] = on_backend(backend, ours)
    if FULL:
        torch._dynamo.reset()
        m = torch.compile(copy.deepcopy(module).to(memory_format=FORMATS[layout]))
        calls["compile"] = lambda: torch.autograd.grad(m(a), [a, *m.parameters()], g)
    n, out = batch * shape.channels * shape.size**2, batch * shape.channels * shape.out**2
    elements = (n + 3 * out) + (2 * n + 4 * out)  # forward in two passes; backward in two passes
    return Group("dwconv_bn_act_train fwd+bwd", shape.name(batch), dtype, layout, elements * x.element_size(), calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("spec", specs(DEPTHWISE_TRAIN), ids=spec_id)
def bench_training(benchmark, arena, spec, contender):
    arena.run(benchmark, ("training", spec), lambda: build_training(spec), contender)
