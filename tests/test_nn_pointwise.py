"""1x1 convolutions in evaluation on a CPU run as ``pointwise_conv_bn_act`` on weights that are packed once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import cnnkernels
from cnnkernels import _ext
from cnnkernels.nn import ConvBNAct, _pointwise
from cnnkernels.nn.sequential import FusedSequential

from .nn_oracle import randomise


def image(n=2, c=6, h=5, w=7):
    x = torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last)


def unit(act="relu6", **conv):
    torch.manual_seed(0)
    m = ConvBNAct(6, 20, 1, act=act, **conv)
    randomise(m)
    return m.eval()


def expected(m, x):
    return m.act(m.bn(m.conv(x)))


@pytest.fixture
def packed_calls(monkeypatch):
    made = []

    def counted(*args):
        made.append(args[1])
        return real(*args)

    real = _pointwise.packed
    monkeypatch.setattr(_pointwise, "packed", counted)
    return made


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("act", ["identity", "relu", "relu6", "leaky_relu(0.1)", "silu", "hard_swish", "mish"])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_the_modules(act, bias, packed_calls):
    m, x = unit(act, bias=bias), image()
    with torch.no_grad():
        y = m(x)
        close(y, expected(m, x))
        m(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert len(packed_calls) == 2 and packed_calls[0] is packed_calls[1]


def test_without_batch_norm_and_with_a_residual(packed_calls):
    x, r = image(), image(c=8)
    m = FusedSequential(nn.Conv2d(6, 8, 1), nn.ReLU()).eval()
    with torch.no_grad():
        close(m(x, residual=r), m[0](x).relu() + r)
        close(m(x, residual=r.contiguous()), m[0](x).relu() + r)  # of another layout: the op converts it
        close(m(x[:, :, :1, :1].contiguous()), m[0](x[:, :, :1, :1]).relu())
    assert len(packed_calls) == 3


def test_changed_weights_and_statistics_are_seen(packed_calls):
    m, x = unit(), image()
    with torch.no_grad():
        m(x)
        m.conv.weight.mul_(2)
        close(m(x), expected(m, x))
        m.bn.running_mean.add_(1)
        close(m(x), expected(m, x))
        m.load_state_dict(unit("relu6").state_dict())
        close(m(x), expected(m, x))
    assert len(packed_calls) == 4


@pytest.mark.parametrize("conv", [{"stride": 2}, {"padding": 1}, {"groups": 2}])
def test_other_convolutions_are_left_alone(conv, packed_calls):
    m, x = unit(**conv), image()
    with torch.no_grad():
        close(m(x), expected(m, x))
    assert not packed_calls


def test_what_needs_the_plain_way_takes_it(packed_calls):
    m, x = unit(), image()
    with torch.no_grad():
        close(m(x.contiguous()), expected(m, x))  # NCHW
        close(m(x.double().float().requires_grad_().detach()), expected(m, x))
        del packed_calls[:]
        hook = m.conv.register_forward_hook(lambda module, args, y: y + 1)
        close(m(x), expected(m, x))
        hook.remove()
        m.conv.forward = lambda t: torch.zeros(2, 20, 5, 7)
        close(m(x), expected(m, x))
        del m.conv.forward
    close(m(x), expected(m, x))  # with gradients
    m(x).sum().backward()
    assert m.conv.weight.grad is not None
    assert not packed_calls


def test_a_recorder_sees_the_op(packed_calls):
    m, x = unit(), image()
    with torch.no_grad(), cnnkernels.record_backends() as runs:
        close(m(x), expected(m, x))
    assert [(r.op, r.backend) for r in runs] == [("pointwise_conv_bn_act", "cpu")] and not packed_calls


@pytest.mark.skipif(_ext.module is None, reason=str(_ext.error))
def test_weights_packed_for_another_instruction_set_are_not_read():
    m, x, before = unit(), image(), _ext.module.cpu_isa()
    try:
        with torch.no_grad():
            m(x)
            _ext.module.set_cpu_isa("generic")
            close(m(x), expected(m, x))
    finally:
        _ext.module.set_cpu_isa(before)
