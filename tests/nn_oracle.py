"""Modules to test, and what they must equal: copies of their children, run one by one."""

import copy

import pytest
import torch
from torch import nn

from cnnkernels.nn import ConvBNAct, DWConvBNAct, FusedSequential

C = 12

ACTS = ("identity", "relu", "relu6", "leaky_relu(0.1)", "silu", "hard_swish", "mish", "sigmoid", "hard_sigmoid")

kinds = pytest.mark.parametrize("kind", ["depthwise", "dense"])

OPS = {"depthwise": {"dwconv_bn_act", "dwconv_bn_act_train"}, "dense": {"bn_act", "bn_act_train"}}


def close(a, b, tolerance=2e-5):
    """fp32 sums of some hundred terms in another order."""
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def randomise(module):
    """Parameters and running statistics as after some training."""
    torch.manual_seed(1)
    for m in module.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            if m.running_mean is not None:
                nn.init.normal_(m.running_mean)
                nn.init.uniform_(m.running_var, 0.5, 2)
            if m.affine:
                nn.init.uniform_(m.weight, 0.5, 2)
                nn.init.normal_(m.bias)
    return module


def unit(kind, **kw):
    torch.manual_seed(0)
    module = DWConvBNAct(C, **kw) if kind == "depthwise" else ConvBNAct(C, C, 3, **kw)
    return randomise(module)


def unfused(module):
    """The same children, copied, one after the other."""
    return nn.Sequential(*copy.deepcopy([module.conv, module.bn, module.act])).train(module.training)


def as_sequential(module):
    """FusedSequential, also nested, as nn.Sequential with copies of the children."""
    if isinstance(module, FusedSequential):
        return nn.Sequential(*(as_sequential(m) for m in module)).train(module.training)
    return copy.deepcopy(module)


def image(n=2, c=C, size=9, channels_last=False):
    torch.manual_seed(5)
    x = torch.randn(n, c, size, size)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def ran(runs):
    return {r.op for r in runs}


def one_step(module, x):
    x = x.clone().requires_grad_()
    y = module(x)
    torch.manual_seed(9)
    (y * torch.randn_like(y)).sum().backward()
    return [y, x.grad, *(p.grad for p in module.parameters()), *module.buffers()]


def last_image(c, size, n=2):
    """[n, c, *size] in channels_last."""
    x = torch.randn(n, c, *size, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last)
