"""Dense convolutions in evaluation on a CPU: one oneDNN call with kept weights, and when it is not taken."""

import copy

import pytest
import torch
from torch import nn

from cnnkernels.nn import ConvBNAct, FusedBlock, _unit

ACTS = ("identity", "relu", "relu6", "leaky_relu(0.2)", "silu", "hard_swish", "sigmoid", "hard_sigmoid", "mish")


@pytest.fixture
def calls(monkeypatch):
    """How often oneDNN was called."""
    counted = []
    original = _unit._onednn

    def counting(*args):
        counted.append(args[1])
        return original(*args)

    monkeypatch.setattr(_unit, "_onednn", counting)
    return counted


class Block(FusedBlock):
    def __init__(self, act="relu", **conv):
        super().__init__()
        torch.manual_seed(0)
        unit = ConvBNAct(6, 8, act=act, **{"kernel_size": 3, **conv})
        self.conv, self.bn, self.act = unit.conv, unit.bn, unit.act
        nn.init.uniform_(self.bn.running_var, 0.5, 2)
        nn.init.normal_(self.bn.running_mean)
        nn.init.uniform_(self.bn.weight, 0.5, 2)
        nn.init.normal_(self.bn.bias)

    def forward(self, x, **added):
        return self.fused(x, "conv", "bn", "act", **added)

    def expected(self, x, shortcut=None, residual=None):
        y = self.bn(self.conv(x))
        y = self.act(y if shortcut is None else y + shortcut)
        return y if residual is None else y + residual


def image(n=2, c=6, size=9):
    return torch.randn(n, c, size, size).to(memory_format=torch.channels_last)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("added", ["", "shortcut", "residual", "shortcut residual"])
@pytest.mark.parametrize("act", ACTS)
def test_equals_the_modules(act, added, calls):
    block, x = Block(act).eval(), image()
    terms = {name: image(c=8) for name in added.split()}
    before = {name: t.clone() for name, t in terms.items()}
    with torch.no_grad():
        y = block(x, **terms)
        close(y, block.expected(x, **terms))
    # mish is no oneDNN activation: BatchNorm goes with it, unless a sum comes between.
    assert calls == ["conv"] * (act != "mish" or "shortcut" in added)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(t, before[name]) for name, t in terms.items())


@pytest.mark.parametrize(
    "conv", [{"stride": 2}, {"dilation": 2}, {"groups": 2}, {"bias": True}, {"kernel_size": (1, 3)}]
)
def test_windows(conv, calls):
    block, x = Block(**conv).eval(), image()
    with torch.no_grad():
        close(block(x), block.expected(x))
    assert calls == ["conv"]


def test_convolution_without_batch_norm(calls):
    class Plain(FusedBlock):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(6, 8, 3), nn.ReLU()

    block, x = Plain().eval(), image()
    with torch.no_grad():
        close(block.fused(x, "conv", None, "relu"), block.conv(x).relu())
    assert calls == ["conv"]


def test_layout_is_kept(calls):
    block, x = Block().eval(), image().contiguous()
    with torch.no_grad():
        y = block(x)
        close(y, block.expected(x))
    assert y.is_contiguous()
    assert not calls


def test_kept_weights_follow_the_parameters(calls):
    block, x = Block().eval(), image()
    with torch.no_grad():
        first = block(x)
        kept = block._folds[("conv", "oneDNN")].result
        assert torch.equal(block(x), first)
        assert block._folds[("conv", "oneDNN")].result is kept
        block.conv.weight.mul_(2)
        close(block(x), block.expected(x))
        block.bn.running_mean.add_(1)
        close(block(x), block.expected(x))
        block.train()(x)
        close(block.eval()(x), block.expected(x))
        other_size = image(1, size=5)
        close(block(other_size), block.expected(other_size))
        close(copy.deepcopy(block)(x), block.expected(x))
    with torch.inference_mode():
        close(block(x), block.expected(x))
    assert len(calls) == 8


def test_gradients_take_the_parts(calls):
    block, x = Block().eval(), image().requires_grad_()
    block(x).sum().backward()
    with torch.no_grad():
        block(image(), shortcut=image(c=8).requires_grad_())
    assert not calls
    assert x.grad is not None and block.conv.weight.grad is not None


def test_unusual_terms(calls):
    """Broadcast ones are oneDNN's; those of another type are promoted, as the modules do it."""
    block, x = Block().eval(), image()
    with torch.no_grad():
        gate = torch.randn(2, 8, 1, 1)
        close(block(x, shortcut=gate), block.expected(x, shortcut=gate))
        assert len(calls) == 1
        double = image(c=8).double()
        assert block(x, residual=double).dtype is torch.float64
        close(block(x, residual=double), block.expected(x, residual=double))
    assert len(calls) == 1


def test_wrong_channels_are_torchs_to_say():
    with torch.no_grad(), pytest.raises(RuntimeError, match="expected input"):
        Block().eval()(image(c=5))
