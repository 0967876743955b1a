"""Max pooling without indices: torch's values, also where they are NaN, and torch's own wherever the kernel is not meant."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import cnnkernels
from cnnkernels.nn import MaxPool2d


@pytest.fixture
def counted(count_direct):
    return count_direct("max_pool")


def image(*shape, channels_last=True):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


WINDOWS = {
    "ResNet": {"kernel_size": 3, "stride": 2, "padding": 1},
    "AlexNet": {"kernel_size": 3, "stride": 2},
    "VGG": {"kernel_size": 2},
    "ceil": {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    "ceil and padding": {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    "SPP": {"kernel_size": 5, "stride": 1, "padding": 2},
    "large": {"kernel_size": (13, 9), "stride": (1, 2), "padding": (6, 4)},
    "oblong": {"kernel_size": (2, 3), "stride": (3, 1), "padding": (1, 0)},
    "list": {"kernel_size": [3, 2], "stride": [1, 2], "padding": [0, 1]},
    "gaps": {"kernel_size": 2, "stride": 3, "ceil_mode": True},
}


@pytest.mark.parametrize("shape", [(2, 64, 14, 14), (1, 5, 7, 9), (3, 37, 3, 4), (9, 16, 30, 5)], ids=str)
@pytest.mark.parametrize("window", WINDOWS)
def test_equals_torch(window, shape, threads, counted):
    x = image(*shape)
    before = x.clone()
    y = MaxPool2d(**WINDOWS[window])(x)
    assert torch.equal(y, nn.MaxPool2d(**WINDOWS[window])(x))
    assert counted.calls == 1
    assert y.is_contiguous(memory_format=torch.channels_last) and torch.equal(x, before)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 1e-42])
def test_special_values(value, counted):
    x = image(2, 19, 9, 9)
    x[0, :, ::3, ::2] = value
    x[1] = value
    y, want = MaxPool2d(3, 2, 1)(x), nn.MaxPool2d(3, 2, 1)(x)
    assert counted.calls == 1
    torch.testing.assert_close(y, want, rtol=0, atol=0, equal_nan=True)


def test_every_element_is_written(counted, poison_empty):
    assert torch.isfinite(MaxPool2d(3, 2, 1)(image(3, 21, 33, 17))).all() and counted.calls == 1


@pytest.mark.parametrize(
    ("arguments", "x"),
    [
        ({}, image(2, 8, 9, 9, channels_last=False)),
        ({}, image(2, 8, 9, 9).double()),
        ({}, image(2, 8, 9, 9)[:, :5]),
        ({}, image(8, 9, 9, channels_last=False)),
        ({"dilation": 2}, image(2, 8, 9, 9)),
        ({"dilation": [1, 2]}, image(2, 8, 9, 9)),
        ({"return_indices": True}, image(2, 8, 9, 9)),
    ],
    ids=["NCHW", "float64", "slice", "three dimensions", "dilated", "dilated columns", "indices"],
)
def test_what_the_kernel_does_not_take_is_torchs(arguments, x, counted):
    y, want = MaxPool2d(3, 2, 1, **arguments)(x), nn.MaxPool2d(3, 2, 1, **arguments)(x)
    torch.testing.assert_close(y, want, rtol=0, atol=0)
    assert counted.calls == 0


def test_gradients_are_torchs(counted):
    x, z = image(2, 8, 9, 9).requires_grad_(), image(2, 8, 9, 9).requires_grad_()
    MaxPool2d(3, 2, 1)(x).square().sum().backward()
    nn.MaxPool2d(3, 2, 1)(z).square().sum().backward()
    assert torch.equal(x.grad, z.grad) and counted.calls == 0
    with torch.no_grad():
        MaxPool2d(3, 2, 1)(x)
    assert counted.calls == 1


def test_the_reference_backend_is_torch(counted):
    with cnnkernels.use_backend("reference"):
        MaxPool2d(3, 2, 1)(image(2, 8, 9, 9))
    assert counted.calls == 0


def test_transforms_and_traces_see_torchs_op(counted):
    pool, x = MaxPool2d(3, 2, 1), image(2, 8, 9, 9)
    want = nn.MaxPool2d(3, 2, 1)(x)
    assert torch.equal(torch.func.vmap(pool)(x[None])[0], want)
    assert torch.equal(torch.export.export(pool, (x,)).module()(x), want)
    assert torch.equal(torch.jit.trace(pool, x, check_trace=False)(x), want)
    assert counted.calls == 0


def test_hooks_are_called(counted):
    pool, x = MaxPool2d(3, 2, 1), image(2, 8, 9, 9)
    want = pool(x)
    pool.register_forward_hook(lambda module, args, y: y * 2)
    assert torch.equal(pool(x), want * 2) and counted.calls == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 3, "padding": 2}, "pad should be at most half"),
        ({"kernel_size": 11}, "Output size is too small"),
        ({"kernel_size": 3, "stride": 0}, "stride should not be zero"),
    ],
)
def test_impossible_windows_are_torchs_errors(arguments, message, counted):
    with pytest.raises(RuntimeError, match=message):
        MaxPool2d(**arguments)(image(2, 8, 9, 9))
    assert counted.calls == 0


def test_looks_and_loads_like_torchs():
    pool, want = MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2, 1)
    assert isinstance(pool, nn.MaxPool2d) and repr(pool) == repr(want) and pool.state_dict() == want.state_dict()
