"""First convolutions in evaluation on a CPU: by their own kernel, equal to the modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import cnnkernels
from cnnkernels.nn import Conv2dSame, ConvBNAct, FusedSequential

from .nn_oracle import as_sequential, close, randomise, unfused


@pytest.fixture
def counted(count_direct):
    return count_direct("stem_conv")


def image(n, c, height, width, channels_last=True):
    x = torch.randn(n, c, height, width, generator=torch.Generator().manual_seed(1))
    if not channels_last:
        return x
    # With one channel only strides tell the layouts apart.
    return x.contiguous().permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


LAYERS = {
    "MobileNet": (3, 32, {"kernel_size": 3, "stride": 2, "act": "relu6"}),
    "MobileNetV3": (3, 16, {"kernel_size": 3, "stride": 2, "act": "hard_swish"}),
    "EfficientNet": (3, 40, {"kernel_size": 3, "stride": 2, "act": "silu"}),
    "ResNet": (3, 64, {"kernel_size": 7, "stride": 2, "act": "relu"}),
    "AlexNet": (3, 64, {"kernel_size": 11, "stride": 4, "padding": 2, "act": "relu"}),
    "VGG": (3, 64, {"kernel_size": 3, "act": "relu"}),
    "no padding": (3, 32, {"kernel_size": 3, "stride": 2, "padding": 0, "act": "relu"}),
    "odd": (4, 19, {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 3), "act": "mish"}),
    "grey": (1, 24, {"kernel_size": 3, "stride": 2, "act": "identity"}),
}


@pytest.mark.parametrize("size", [(24, 24), (33, 47), (11, 13)], ids=str)
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("layer", LAYERS)
def test_equals_the_modules(layer, n, size, threads, counted):
    c, k, arguments = LAYERS[layer]
    m = randomise(ConvBNAct(c, k, **arguments)).eval()
    x = image(n, c, *size)
    before = x.clone()
    with torch.no_grad():
        y = m(x)
        close(y, unfused(m)(x))
    assert counted.calls == 1
    assert torch.equal(x, before) and y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(18, 18), (17, 20), (5, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("stride", [1, 2, (2, 3)])
@pytest.mark.parametrize("kernel_size", [3, (5, 2)])
def test_uneven_padding(kernel_size, stride, size, counted):
    m = FusedSequential(Conv2dSame(3, 32, kernel_size, stride, bias=False), nn.BatchNorm2d(32), nn.SiLU())
    randomise(m).eval()
    x = image(2, 3, *size)
    with torch.no_grad():
        close(m(x), as_sequential(m)(x))
    assert counted.calls == 1


def test_every_element_is_written(counted, poison_empty):
    with torch.no_grad():
        assert torch.isfinite(randomise(ConvBNAct(3, 21, 3, 2)).eval()(image(2, 3, 33, 29))).all()
    assert counted.calls == 1


def test_threads_do_not_show(counted):
    m, x, results = randomise(ConvBNAct(3, 32, 3, 2, act="silu")).eval(), image(2, 3, 64, 64), []
    before = torch.get_num_threads()
    for n in (1, 2):
        torch.set_num_threads(n)
        with torch.no_grad():
            results.append(m(x))
        torch.set_num_threads(before)
    assert torch.equal(*results) and counted.calls == 2


def test_changes_are_seen(counted):
    m, x = randomise(ConvBNAct(3, 32, 3, 2)).eval(), image(2, 3, 17, 17)
    with torch.no_grad():
        old = m(x)
        m.conv.weight.mul_(1.5)
        m.bn.running_mean.add_(1)
        close(m(x), unfused(m)(x))
        assert not torch.allclose(m(x), old)
    assert counted.calls == 3


def test_without_batch_norm(counted):
    m = FusedSequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(inplace=True)).eval()
    x = image(2, 3, 17, 17)
    with torch.no_grad():
        close(m(x), torch.relu(nn.functional.conv2d(x, m[0].weight, m[0].bias, 2, 1)))
    assert counted.calls == 1


@pytest.mark.parametrize(
    ("m", "x"),
    [
        (ConvBNAct(3, 32, 3, 2), image(2, 3, 17, 17, channels_last=False)),
        (ConvBNAct(3, 32, 3, 2).double(), image(2, 3, 17, 17).double()),
        (ConvBNAct(5, 32, 3, 2), image(2, 5, 17, 17)),
        (ConvBNAct(3, 32, 3, 2, dilation=2), image(2, 3, 17, 17)),
        (ConvBNAct(4, 32, 3, 2, groups=2), image(2, 4, 17, 17)),
        (ConvBNAct(3, 32, 3, 2, act="leaky_relu(0.1)"), image(2, 3, 17, 17)),
    ],
    ids=["NCHW", "float64", "five channels", "dilated", "grouped", "leaky"],
)
def test_what_the_kernel_does_not_take(m, x, counted):
    randomise(m).eval()
    with torch.no_grad():
        y = m(x)
        with cnnkernels.use_backend("reference"):
            close(y, m(x))
    assert counted.calls == 0


def test_gradients(counted):
    m, x = randomise(ConvBNAct(3, 32, 3, 2)).eval(), image(2, 3, 17, 17)
    m(x).sum().backward()
    assert m.conv.weight.grad is not None and counted.calls == 0
    m.requires_grad_(False)
    m(x)
    assert counted.calls == 1
    m(x.clone().requires_grad_()).sum().backward()
    assert counted.calls == 1


def test_a_kernel_that_does_not_fit_is_torchs_error(counted):
    with torch.no_grad(), pytest.raises(RuntimeError, match="can't be greater than actual input size"):
        ConvBNAct(3, 8, 7, padding=0).eval()(image(1, 3, 5, 5))
    assert counted.calls == 0
