"""More than 2^31 elements: an index that is 32 bits wide anywhere in a kernel or its binding shows here.

The input is float16, 4 GiB of zeros but for three crops of the last image: around the element 2^31 of either layout, and at
the far end.  There the result must be that of the op on the crop alone.
"""

from __future__ import annotations

import pytest
import torch

import cnnkernels
from cnnkernels import _op, ops

from . import large

N, C, H, W = 3, 8, 9500, 9500  # 2.17e9 elements; element 2^31 is in the last image in both layouts
CROP = 20
pytestmark = large.marks(6.5)  # an output of 4.04 GiB, and what else runs; the input's zeros take none


def crops():
    """Rows and columns of the last image, CROP of each."""
    flat = 2**31 - (N - 1) * C * H * W
    for row, column in ((flat // W % H, flat % W), (flat // (W * C), flat // C % W), (H, W)):
        top, left = (min(max(i - CROP // 2, 0), size - CROP) for i, size in ((row, H), (column, W)))
        yield slice(top, top + CROP), slice(left, left + CROP)


@pytest.fixture(scope="module", params=["nchw", "channels_last"])
def big(request):
    x = large.zeros((N, C, H, W), request.param)
    g = torch.Generator().manual_seed(0)
    for rows, columns in crops():
        x[-1, :, rows, columns] = torch.randn(C, CROP, CROP, generator=g).half()
    return x


def run(op, *args, **options):
    with cnnkernels.record_backends() as runs:
        y = getattr(ops, op)(*args, **options)
    assert [(r.backend, r.reason) for r in runs] == [("cpu", None)]
    return y


def assert_equal_in_the_crops(y, big, op, halo=0):
    """In its crops, y is op of the crops; their ``halo`` outermost rows and columns, which depend on more, are left out."""
    inner = slice(halo, CROP - halo)
    for rows, columns in crops():
        small = op(big[-1:, :, rows, columns].contiguous(memory_format=torch.channels_last))
        got = y[-1:, :, rows, columns]
        assert torch.equal(got[..., inner, inner], small[..., inner, inner])
        assert got.abs().sum() > 0


def test_mish(big):
    assert_equal_in_the_crops(run("mish", big), big, ops.mish)


def test_bn_act(big):
    scale, shift = torch.linspace(0.5, 1.5, C), torch.linspace(-1, 1, C)
    y = run("bn_act", big, scale, shift, act="relu6")
    assert_equal_in_the_crops(y, big, lambda x: ops.bn_act(x, scale, shift, act="relu6"))


def test_bn_act_train(big):
    """The statistics are those of the crops and 2.7e8 zeros a channel."""
    mean, var = torch.zeros(C), torch.zeros(C)
    y = run("bn_act_train", big, None, None, mean, var, momentum=1.0, act="relu")
    places = torch.zeros(H, W, dtype=torch.bool)
    for rows, columns in crops():
        places[rows, columns] = True
    values, count = big[-1][:, places].double(), N * H * W
    want_mean = values.sum(1) / count
    want_var = (values.square().sum(1) / count - want_mean.square()) * count / (count - 1)
    # Relative to what was added up: of some means nearly all cancels (AVX2, whose lanes add in another order, shows it).
    assert ((mean.double() - want_mean).abs() <= 1e-4 * values.abs().sum(1) / count).all()
    torch.testing.assert_close(var.double(), want_var, rtol=1e-4, atol=0)
    std = (want_var + 1e-5).sqrt()
    for rows, columns in crops():
        want = ((big[-1, :, rows, columns].double() - want_mean[:, None, None]) / std[:, None, None]).relu()
        torch.testing.assert_close(y[-1, :, rows, columns].double(), want, rtol=2e-3, atol=1e-4)


def test_gradient_of_bn_act(big):
    """The incoming gradient is x itself, so that there is memory for the result."""
    scale, shift = torch.linspace(0.5, 1.5, C), torch.linspace(0.1, 1, C)
    with cnnkernels.record_backends() as runs:
        dx, dscale, dshift = _op.REGISTRY["bn_act_backward"](big, big, scale, shift, "identity")
    assert [(r.backend, r.reason) for r in runs] == [("cpu", None)]
    per_channel = scale[:, None, None]
    squares = sums = 0
    seen = torch.zeros(H, W, dtype=torch.bool)
    for rows, columns in crops():
        x = big[-1, :, rows, columns].float()
        torch.testing.assert_close(dx[-1, :, rows, columns].float(), x * per_channel, rtol=1e-3, atol=1e-6)
        new = ~seen[rows, columns]
        seen[rows, columns] = True
        squares, sums = squares + (x[:, new].double() ** 2).sum(1), sums + x[:, new].double().sum(1)
    torch.testing.assert_close(dscale.double(), squares, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(dshift.double(), sums, rtol=1e-5, atol=1e-4)


def test_channel_shuffle(big):
    assert_equal_in_the_crops(run("channel_shuffle", big, 4), big, lambda x: ops.channel_shuffle(x, 4))


def test_dwconv_bn_act(big):
    weight = torch.linspace(-1, 1, 9 * C).view(C, 1, 3, 3).half()
    scale, shift = torch.linspace(0.5, 1.5, C), torch.linspace(-1, 1, C)
    y = run("dwconv_bn_act", big, weight, scale, shift, act="relu6")
    assert_equal_in_the_crops(y, big, lambda x: ops.dwconv_bn_act(x, weight, scale, shift, act="relu6"), halo=1)


def test_squeeze_excite(big):
    """The means are of zeros but for the crops, so the gate is that of the second bias."""
    w1, w2, bias = torch.full((2, C), 0.1).half(), torch.full((C, 2), 0.1).half(), torch.linspace(-2, 2, C).half()
    y = run("squeeze_excite", big, w1, None, w2, bias)
    gate = torch.sigmoid(bias.float()).view(1, C, 1, 1)
    for rows, columns in crops():
        x = big[-1:, :, rows, columns].float()
        torch.testing.assert_close(y[-1:, :, rows, columns].float(), x * gate, rtol=2e-3, atol=1e-5)
