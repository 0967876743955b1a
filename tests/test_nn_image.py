"""The entry and the exit of networks on a CPU: values, layouts, and that the kernels ran."""

from __future__ import annotations

import pytest
import torch

from cnnkernels import _ext
from cnnkernels.nn import _image

NATIVE = pytest.mark.skipif(not _image._AVAILABLE, reason="the extension is not built")
SIZES = [(1, 224, 224), (3, 7, 5), (2, 1, 1), (2, 33, 31), (1, 1, 16387)]


class Calls:
    """In the place of ``_ext.direct_ops``: counts the calls of the two kernels."""

    def __init__(self):
        self.names = []

    def __getattr__(self, name):
        def call(x):
            self.names.append(name)
            return getattr(_ext.native_ops, name)(x)

        return call


@pytest.fixture
def calls(monkeypatch):
    counted = Calls()
    monkeypatch.setattr(_image._ext, "direct_ops", counted)
    return counted


@NATIVE
@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_channels_last(calls, channels, size):
    n, h, w = size
    x = torch.randn(n, channels, h, w)
    x.view(-1)[0] = float("nan")
    y = _image.as_channels_last(x)
    if not x.is_contiguous(memory_format=torch.channels_last):
        assert calls.names == ["channels_last"]
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y.view(torch.int32), x.view(torch.int32))


@NATIVE
@pytest.mark.parametrize("channels", [1, 15, 64, 77, 1280])
@pytest.mark.parametrize("size", [(1, 7, 7), (3, 1, 1), (2, 112, 112), (1, 13, 9)])
def test_mean(calls, channels, size):
    n, h, w = size
    x = _image.as_channels_last(torch.randn(n, channels, h, w) + 100)
    calls.names.clear()
    y = _image.mean_over_pixels(x)
    assert calls.names == ["mean_pixels"]
    assert y.shape == (n, channels) and y.is_contiguous()
    torch.testing.assert_close(y.double(), x.double().mean((2, 3)), rtol=2e-6, atol=0)


@NATIVE
def test_what_the_kernels_do_not_take(calls):
    image = torch.randn(2, 3, 6, 6)
    for x in (image.double(), image.half(), image.requires_grad_(), torch.randn(2, 5, 6, 6), image.detach()[:, :, ::2]):
        assert torch.equal(_image.as_channels_last(x), x)
        torch.testing.assert_close(_image.mean_over_pixels(x), x.mean((2, 3)))
    assert calls.names == []
    y = _image.mean_over_pixels(_image.as_channels_last(image))
    assert torch.autograd.grad(y.sum(), image)[0].eq(1 / 36).all()


def test_native_refusals():
    if not _image._AVAILABLE:
        pytest.skip("the extension is not built")
    for bad in (torch.zeros(1, 5, 4, 4), torch.zeros(1, 3, 4, 4).double(), torch.zeros(3, 4, 4)):
        with pytest.raises(RuntimeError, match="channels_last: a dense float32 NCHW"):
            _ext.native_ops.channels_last(bad)
    for bad in (torch.zeros(1, 5, 4, 4), torch.zeros(1, 3, 0, 4), torch.zeros(3, 4)):
        with pytest.raises(RuntimeError, match="mean_pixels: a channels_last float32"):
            _ext.native_ops.mean_pixels(bad)
