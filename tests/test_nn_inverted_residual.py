"""Inverted residuals in evaluation on a CPU: one call, equal to the modules, and only while nothing about them has changed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cnnkernels.nn import Conv2dSame, InvertedResidual, MBConv, SqueezeExcite

from .nn_oracle import last_image as image
from .nn_oracle import randomise


@pytest.fixture
def counted(count_direct):
    return count_direct("inverted_residual")


def made(block):
    randomise(block)
    return block.eval()


def modules(block, x):
    """What the modules compute, one by one."""

    def children(m, x):
        for child in m._modules.values():
            x = children(child, x) if isinstance(child, nn.Sequential) else child(x)
        return x

    y = children(block.conv if isinstance(block, InvertedResidual) else block.block, x)
    return y + x if block.use_res_connect else y


def close(a, b):
    torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)


BLOCKS = {
    "v2": lambda: InvertedResidual(16, 16, 1, 6),
    "strided": lambda: InvertedResidual(16, 24, 2, 6),
    "not expanded": lambda: InvertedResidual(19, 8, 1, 1),
    "odd": lambda: InvertedResidual(5, 7, 2, 3, kernel_size=5, act="silu"),
    "v3": lambda: MBConv(16, 37, 16, kernel_size=5, act="hard_swish"),
    "wide": lambda: MBConv(24, 144, 40, kernel_size=7, stride=2, act="relu"),
    "squeezed": lambda: MBConv(16, 40, 16, act="silu", squeeze_channels=5, squeeze_act="silu"),
    "squeezed v3": lambda: MBConv(16, 37, 24, 5, 2, act="hard_swish", squeeze_channels=8, gate="hard_sigmoid"),
    "squeezed only": lambda: MBConv(16, 16, 8, act="relu", squeeze_channels=4),
    "SAME": lambda: MBConv(16, 40, 16, kernel_size=5, act="silu", conv=Conv2dSame),
    "SAME strided": lambda: MBConv(16, 40, 24, 3, 2, act="silu", squeeze_channels=5, conv=Conv2dSame),
    "dilated": lambda: MBConv(8, 40, 8, kernel_size=3, dilation=2, act="relu6"),
}


@pytest.mark.parametrize("size", [(7, 7), (14, 9), (61, 47), (1, 1)], ids=str)
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("block", BLOCKS)
def test_equals_the_modules(block, n, size, threads, counted):
    m = made(BLOCKS[block]())
    x = image(next(c for c in m.modules() if isinstance(c, nn.Conv2d)).in_channels, size, n)
    before = x.clone()
    with torch.no_grad():
        y = m(x)
        close(y, modules(m, x))
    assert counted.calls == 1
    assert torch.equal(x, before)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_threads_and_strips_do_not_show():
    m, x = made(BLOCKS["v2"]()), image(16, (90, 80), 3)
    with torch.no_grad():
        results = []
        for n in (1, 2):
            before = torch.get_num_threads()
            torch.set_num_threads(n)
            results.append(m(x))
            torch.set_num_threads(before)
        assert torch.equal(*results)
        assert torch.equal(m(x[1:2])[0], results[0][1])


def change_weight(m):
    m.conv[0][0].weight.mul_(1.5)


def change_statistics(m):
    m.conv[1][1].running_var.mul_(2)


def change_eps(m):
    m.conv[3].eps = 0.5


def replace_activation(m):
    m.conv[0][2] = nn.ReLU()
    m.conv[1][2] = nn.ReLU()


def replace_parameter(m):
    m.conv[2].weight = nn.Parameter(torch.ones_like(m.conv[2].weight))


def load(m):
    m.load_state_dict({k: v * 1.25 if v.is_floating_point() else v for k, v in m.state_dict().items()})


@pytest.mark.parametrize(
    "change", [change_weight, change_statistics, change_eps, replace_activation, replace_parameter, load]
)
def test_changes_are_seen(change, counted):
    m, x = made(InvertedResidual(16, 16, 1, 6)), image(16, (9, 9))
    with torch.no_grad():
        old = m(x)
        change(m)
        close(m(x), modules(m, x))
        assert not torch.allclose(m(x), old)
    assert counted.calls == 3


def test_a_plan_is_for_a_padding(counted):
    """TensorFlow's padding at stride 2: another one for odd sizes than for even ones, so another plan."""
    m = made(BLOCKS["SAME strided"]())
    with torch.no_grad():
        for size in ((8, 8), (12, 10), (7, 8), (7, 8), (8, 8)):
            x = image(16, size)
            close(m(x), modules(m, x))
    assert counted.calls == 5


def hook(m):
    m.conv[1][0].register_forward_hook(lambda module, args, y: y * 2)


def outer_hook(m):
    m.conv.register_forward_hook(lambda module, args, y: y * 2)


def dilate(m):
    m.conv[1][0].dilation = m.conv[1][0].padding = (2, 2)
    m.conv[2].bias = nn.Parameter(torch.ones(16))
    hook(m)


def train_one(m):
    m.conv[1][1].train()


def insert(m):
    m.conv.insert(1, nn.Hardtanh(-1, 1))


@pytest.mark.parametrize("change", [hook, outer_hook, dilate, train_one, insert])
def test_what_needs_its_modules_called_gets_it(change, counted):
    m, x = made(InvertedResidual(16, 16, 1, 6)), image(16, (9, 9))
    with torch.no_grad():
        m(x)
        change(m)
        again = copy.deepcopy(m)
        y, want = m(x), modules(again, x)
        close(y, want * 2 - x if change is outer_hook else want)  # the hook doubles the branch, not the sum
    assert counted.calls == 1


class Doubled(SqueezeExcite):
    def forward(self, x):
        return super().forward(x) * 2


def change_layer(m):
    m.block[2].fc1.weight.mul_(3)


def change_gate(m):
    m.block[2].scale_activation = nn.Hardsigmoid()


def hook_layer(m):
    m.block[2].fc2.register_forward_hook(lambda module, args, y: y * 2)


def hook_gate(m):
    m.block[2].register_forward_hook(lambda module, args, y: y * 2)


def another_class(m):
    m.block[2].__class__ = Doubled


@pytest.mark.parametrize(
    ("change", "calls"), [(change_layer, 3), (change_gate, 3), (hook_layer, 1), (hook_gate, 1), (another_class, 1)]
)
def test_changes_of_the_squeeze_are_seen(change, calls, counted):
    m, x = made(BLOCKS["squeezed"]()), image(16, (9, 9))
    with torch.no_grad():
        old = m(x)
        change(m)
        close(m(x), modules(m, x))
        assert not torch.allclose(m(x), old)
    assert counted.calls == calls


def test_gradients_and_layouts(counted):
    m, x = made(InvertedResidual(16, 16, 1, 6)), image(16, (9, 9))
    y = m(x)
    y.sum().backward()
    assert m.conv[0][0].weight.grad is not None
    with torch.no_grad():
        close(m(x.contiguous()), y)
    m.requires_grad_(False)
    xg = x.clone(memory_format=torch.preserve_format).requires_grad_()
    m(xg).sum().backward()
    assert xg.grad is not None and counted.calls == 0
    close(m(x), y)
    assert counted.calls == 1
