"""Depthwise training and its gradient with more than 2^31 elements.

The rows are those that no other test of this size covers: training in channels_last at stride 1 is the kernels of
``dwconv_bn_act`` and ``bn_act``, which test_large.py has, and the NCHW gradient finds its planes alike at both strides.

The input is float16, zeros but for three images: the first, the one that holds element 2^31, and the last.  Images only
meet in the statistics, whose definition has few terms here, so what the kernels must return is computed in float64 from
those three alone.  16 channels: from there on NCHW takes a channel of all images at a time.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

import cnnkernels
from cnnkernels import _op

from . import large

N, C, H, W = 43000, 16, 56, 56  # 2.16e9 elements
IMAGES = [0, 2**31 // (C * H * W), N - 1]
pytestmark = large.marks(10.5)  # two results of 4.02 GiB, and what else runs

WEIGHT = torch.linspace(-0.5, 1, 9 * C).view(C, 1, 3, 3).half()
BN_WEIGHT, BN_BIAS = torch.linspace(0.5, 1.5, C), torch.linspace(-1, 1, C)


@pytest.fixture(scope="module")
def big(request):
    x = large.zeros((N, C, H, W), request.param)
    x[IMAGES] = torch.randn(len(IMAGES), C, H, W, generator=torch.Generator().manual_seed(0)).half()
    return x


def run(op, *args):
    with cnnkernels.record_backends() as runs:
        result = _op.REGISTRY[op](*args)
    assert [(r.backend, r.reason) for r in runs] == [("cpu", None)]
    return result


def per_channel(v):
    return v.double().view(1, C, 1, 1)


def convolution(x, stride):
    return F.conv2d(x.double(), WEIGHT.double(), stride=stride, padding=1, groups=C)


@pytest.mark.parametrize(("big", "stride"), [("nchw", 1), ("channels_last", 2)], indirect=["big"])
def test_forward(big, stride):
    y, u, mean, var = run("dwconv_bn_act_train", big, WEIGHT, BN_WEIGHT, BN_BIAS, 1e-5, [stride], None, [1], "silu")
    want_u = convolution(big[IMAGES], stride)
    count = u.numel() // C
    want_mean = want_u.sum((0, 2, 3)) / count
    want_var = want_u.square().sum((0, 2, 3)) / count - want_mean.square()
    torch.testing.assert_close(u[IMAGES].double(), want_u, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(mean.double(), want_mean, rtol=1e-4, atol=1e-4 * float(want_mean.abs().max()))
    torch.testing.assert_close(var.double(), want_var, rtol=1e-4, atol=0)
    # What is normalised is u as it is stored.
    std = (per_channel(want_var) + 1e-5).sqrt()
    v = (u[IMAGES].double() - per_channel(want_mean)) / std * per_channel(BN_WEIGHT) + per_channel(BN_BIAS)
    torch.testing.assert_close(y[IMAGES].double(), F.silu(v), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(("big", "stride"), [("nchw", 1), ("channels_last", 1), ("channels_last", 2)], indirect=["big"])
def test_gradient(big, stride):
    """The op as autograd calls it.  At stride 1 grad and u are x itself, at stride 2 every second pixel of it."""
    mean, var = torch.linspace(-0.1, 0.1, C), torch.linspace(0.5, 2, C)
    u = big
    if stride == 2:
        u = large.zeros((N, C, H // 2, W // 2), "channels_last")
        u[IMAGES] = big[IMAGES, :, ::2, ::2]
    geometry = (1e-5, [stride], None, [1], "silu")
    dx, dweight, dgamma, dbeta = run(
        "dwconv_bn_act_train_backward", u, big, WEIGHT, u, mean, var, BN_WEIGHT, BN_BIAS, *geometry
    )
    x, small, count = big[IMAGES].double(), u[IMAGES].double(), u.numel() // C
    xhat = (small - per_channel(mean)) / (per_channel(var) + 1e-5).sqrt()
    v = (xhat * per_channel(BN_WEIGHT) + per_channel(BN_BIAS)).requires_grad_()
    (g,) = torch.autograd.grad(F.silu(v), v, small)
    want_dgamma, want_dbeta = (g * xhat).sum((0, 2, 3)), g.sum((0, 2, 3))  # elsewhere grad is 0
    torch.testing.assert_close(dgamma.double(), want_dgamma, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(dbeta.double(), want_dbeta, rtol=1e-4, atol=1e-2)
    scale = per_channel(BN_WEIGHT) / (per_channel(var) + 1e-5).sqrt()
    du = scale * (g - per_channel(want_dbeta) / count - xhat * per_channel(want_dgamma) / count)
    options = {"stride": stride, "padding": 1, "groups": C}
    want_dx = conv2d_input(x.shape, WEIGHT.double(), du, **options)
    torch.testing.assert_close(dx[IMAGES].double(), want_dx, rtol=2e-3, atol=2e-3)
    want_dweight = conv2d_weight(x, WEIGHT.shape, du, **options)  # elsewhere x is 0
    torch.testing.assert_close(dweight.double(), want_dweight.double(), rtol=2e-3, atol=5e-2)
