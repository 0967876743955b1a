"""3x3 convolutions by Winograd's algorithm: values, sums, borders, when it runs and when not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cnnkernels import _ext
from cnnkernels.nn import ConvBNAct, FusedBlock, _winograd

pytestmark = pytest.mark.skipif(not _winograd._AVAILABLE, reason="the extension is not built")
ACTS = ("identity", "relu", "relu6", "leaky_relu(0.1)", "silu", "hard_swish", "mish")


class Calls:
    """In the place of ``_ext.direct_ops``: counts the calls of the kernel."""

    def __init__(self):
        self.count, self._ops = 0, _ext.direct_ops

    def winograd(self, *args):
        self.count += 1
        return self._ops.winograd(*args)

    def __getattr__(self, name):
        return getattr(self._ops, name)


@pytest.fixture
def calls(monkeypatch):
    counted = Calls()
    monkeypatch.setattr(_ext, "direct_ops", counted)
    return counted


def unit(c_in, c_out, act="relu", padding=1, bias=False):
    m = ConvBNAct(c_in, c_out, 3, padding=padding, act=act, bias=bias)
    m.bn.running_mean.normal_()
    m.bn.running_var.uniform_(0.5, 1.5)
    return m.eval().requires_grad_(False)


def image(n, c, h, w):
    return torch.randn(n, c, h, w).contiguous(memory_format=torch.channels_last)


def expected(m, x):
    double = nn.Sequential(m.conv, m.bn, m.act).double()
    y = double(x.double())
    m.float()
    return y


def close(y, exact):
    assert y.shape == exact.shape and y.is_contiguous(memory_format=torch.channels_last)
    assert float((y - exact).abs().max() / exact.abs().max()) < 3e-6


@pytest.mark.parametrize("act", ACTS)
def test_activations(calls, act):
    m, x = unit(32, 48, act), image(2, 32, 14, 14)
    close(m(x), expected(m, x))
    assert calls.count == 1


@pytest.mark.parametrize("padding", [0, 1, 2, (0, 2), "same", "valid"])
@pytest.mark.parametrize("size", [(12, 12), (13, 11), (3, 70), (70, 3), (9, 16)])
def test_borders(calls, padding, size):
    m, x = unit(16, 16, "identity", padding, bias=True), image(3, 16, *size)
    close(m(x), expected(m, x))
    left, right, top, bottom = (p for s in reversed(_pair(padding)) for p in (s, s))
    tiles = 3 * -(-(size[0] + top + bottom - 2) // 2) * -(-(size[1] + left + right - 2) // 2)
    assert calls.count == (1 if tiles >= _winograd._FEWEST_TILES else 0)


def _pair(padding):
    return {"same": (1, 1), "valid": (0, 0)}.get(padding, padding if isinstance(padding, tuple) else (padding, padding))


@pytest.mark.parametrize("c_in", [16, 48, 272])
@pytest.mark.parametrize("c_out", [16, 80, 160])
@pytest.mark.parametrize("threads", [1, 2])
def test_channels_and_threads(calls, c_in, c_out, threads):
    m, x, before = unit(c_in, c_out), image(1, c_in, 10, 12), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = m(x)
    finally:
        torch.set_num_threads(before)
    close(y, expected(m, x))
    assert calls.count == 1


def test_bits_do_not_depend_on_threads_or_batch():
    m, x = unit(64, 64, "silu"), image(5, 64, 15, 17)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results += [
                m(x),
                torch.cat([m(x[i : i + 1].contiguous(memory_format=torch.channels_last)) for i in range(5)]),
            ]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], y) for y in results[1:])


class Residual(FusedBlock):
    def __init__(self, c, act):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c), act

    def forward(self, x, residual=None, shortcut=None):
        return self.fused(x, "conv", "bn", "act", residual, shortcut)


@pytest.mark.parametrize("kind", ["residual", "shortcut"])
def test_sums(calls, kind):
    block = Residual(32, nn.SiLU()).eval().requires_grad_(False)
    x, other = image(2, 32, 12, 10), image(2, 32, 12, 10)
    y = block(x, **{kind: other})
    assert calls.count == 1
    u = nn.Sequential(block.conv, block.bn).double()(x.double())
    want = block.act(u) + other.double() if kind == "residual" else block.act(u + other.double())
    close(y, want)


def test_not_a_number_stays_where_it_is(calls):
    m, x = unit(16, 16, "identity"), image(1, 16, 20, 20)
    x[0, 3, 9, 9] = float("nan")
    y = m(x)
    assert calls.count == 1
    bad = y.isnan().any(1)[0].nonzero()
    # A transform mixes the pixels of its tile: at most the tiles that see the pixel are touched.
    assert bad[:, 0].min() >= 6 and bad[:, 0].max() <= 11 and bad[:, 1].min() >= 6 and bad[:, 1].max() <= 11
    assert y[0, :, 8:11, 8:11].isnan().all()


def test_what_it_does_not_take(calls):
    for conv in (
        nn.Conv2d(16, 16, 3, 2, 1),
        nn.Conv2d(16, 16, 3, 1, 2, dilation=2),
        nn.Conv2d(16, 16, 3, 1, 1, groups=2),
        nn.Conv2d(16, 16, 5, 1, 2),
        nn.Conv2d(16, 24, 3, 1, 1),
        nn.Conv2d(16, 16, 3, 1, 3),
    ):
        m = ConvBNAct.from_modules(conv, nn.BatchNorm2d(conv.out_channels)).eval().requires_grad_(False)
        x = image(2, 16, 20, 20)
        torch.testing.assert_close(m(x), m.bn(conv(x)), rtol=1e-4, atol=1e-5)
    m, x = unit(16, 16), image(1, 16, 8, 8)  # 16 tiles
    m(x)
    m(torch.randn(1, 16, 20, 20))  # NCHW
    assert calls.count == 0
    m.requires_grad_()
    m(image(2, 16, 20, 20)).sum().backward()
    assert calls.count == 0 and m.conv.weight.grad is not None


def test_weights_are_followed(calls):
    m, x = unit(16, 32), image(2, 16, 12, 12)
    first = m(x)
    with torch.no_grad():
        m.conv.weight.mul_(2)
        m.bn.bias.add_(1)
    close(m(x), expected(m, x))
    assert calls.count == 2 and not torch.equal(m(x), first)


def test_native_refusals():
    x, packed = image(1, 16, 12, 12), _winograd.reorder(torch.randn(32, 16, 3, 3), torch.zeros(32))
    call = _ext.native_ops.winograd
    assert call(x, packed, 32, [1, 1, 1, 1], None, None, 0, 0.0).shape == (1, 32, 12, 12)
    for args in (
        (x.contiguous().double(), packed, 32, [1, 1, 1, 1], None, None, 0, 0.0),
        (torch.randn(1, 16, 12, 12), packed, 32, [1, 1, 1, 1], None, None, 0, 0.0),
        (x, packed[:-1], 32, [1, 1, 1, 1], None, None, 0, 0.0),
        (x, packed, 48, [1, 1, 1, 1], None, None, 0, 0.0),
        (x, packed, 32, [3, 1, 1, 1], None, None, 0, 0.0),
        (image(1, 16, 1, 12), packed, 32, [0, 0, 0, 0], None, None, 0, 0.0),
        (x, packed, 32, [1, 1, 1, 1], image(1, 32, 12, 11), None, 0, 0.0),
        (x, packed, 32, [1, 1, 1, 1], None, torch.randn(1, 32, 12, 12), 0, 0.0),
    ):
        with pytest.raises(RuntimeError, match=r"winograd|two tensors of one shape"):
            call(*args)
