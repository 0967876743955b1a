"""1x1 convolution + BN + activation, with gate and shortcut where the network has them: inference."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnkernels import ops

from .arena import BATCHES, DEVICE, DTYPES, FULL, OURS, Group
from .rivals import ACTS, FORMATS, batch_norm, compiled, eager_calls, fold, no_grad, on_backend
from .shapes import POINTWISE, Pointwise

CONTENDERS = [
    *(f"ours {b}" for b in OURS),
    "eager channels_last",
    "eager nchw",
    "folded by hand",
    "conv + bn_act",
    "compile",
    "copy",
]
SPECS = [(s, b, d, l) for s in POINTWISE for b in BATCHES for d in DTYPES for l in FORMATS]


class Layer(nn.Module):
    """The layer as it is usually written."""

    def __init__(self, shape: Pointwise, batch: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(shape.c_in, shape.c_out, 1, bias=False)
        self.bn, self.act = batch_norm(shape.c_out), ACTS[shape.act]()
        self.gate = nn.Buffer(torch.rand(batch, shape.c_in, 1, 1)) if shape.gate else None
        self.residual = nn.Buffer(torch.randn(batch, shape.c_out, shape.size, shape.size)) if shape.shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn(self.conv(x if self.gate is None else x * self.gate)))
        return y if self.residual is None else y + self.residual


def build(spec) -> Group:
    shape, batch, dtype, layout = spec
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # float32 as ours is: with TF32 eager would differ by more than is allowed
    module = Layer(shape, batch).eval().to(DEVICE, dtype)
    x = torch.randn(batch, shape.c_in, shape.size, shape.size, device=DEVICE, dtype=dtype)
    calls = eager_calls(module, x)
    weight, (scale, shift) = module.conv.weight.detach(), fold(module.bn)
    mine = x.contiguous(memory_format=FORMATS[layout])
    gate = None if module.gate is None else module.gate.flatten(1)
    residual = None if module.residual is None else module.residual.contiguous(memory_format=FORMATS[layout])
    for backend in OURS:
        ours = no_grad(
            lambda: ops.pointwise_conv_bn_act(mine, weight, scale, shift, act=shape.act, gate=gate, residual=residual)
        )
        calls[f"ours {backend}"] = on_backend(backend, ours)
    folded = (weight.float() * scale.view(-1, 1, 1, 1)).to(dtype).contiguous(memory_format=FORMATS[layout])
    bias = shift.to(dtype)

    def by_hand() -> Tensor:
        y = module.act(F.conv2d(mine if module.gate is None else mine * module.gate, folded, bias))
        return y if residual is None else y.add_(residual)

    calls["folded by hand"] = no_grad(by_hand)
    if DEVICE == "cuda":  # what cnnkernels.nn runs where it does not run the op
        own = weight.contiguous(memory_format=FORMATS[layout])

        def two_passes() -> Tensor:
            u = F.conv2d(mine if module.gate is None else mine * module.gate, own)
            return ops.bn_act(u, scale, shift, act=shape.act, residual=residual)

        calls["conv + bn_act"] = no_grad(two_passes)
    if FULL:
        calls["compile"] = compiled(copy.deepcopy(module).to(memory_format=FORMATS[layout]), mine)
    elements = batch * shape.size**2 * (shape.c_in + shape.c_out * (2 if shape.shortcut else 1))
    return Group("pointwise_conv_bn_act", shape.name(batch), dtype, layout, elements * x.element_size(), calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s[0].name(s[1])} {s[2]} {s[3]}")
def bench_pointwise(benchmark, arena, spec, contender):
    arena.run(benchmark, ("pointwise", spec), lambda: build(spec), contender)
