"""Squeeze-and-excitation that ``optimize`` finds, as torchvision, timm and copies of the paper's code have it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cnnkernels.optimize import optimize

from .optimize_oracle import (
    MODES,
    called,
    check,
    exact,
    image,
    needs_torchvision,
    ready,
    relative,
    same_step,
    swapped,
    torchvision,
)

SE = {"squeeze_excite": 1}


class SELayer(nn.Module):
    """As most copies of Hu et al. 2018 have it: linear layers, view, expand."""

    def __init__(self, channels=16, reduction=4, gate=nn.Sigmoid, bias=False, expand=True, pool=None):
        super().__init__()
        self.avg_pool = pool or nn.AdaptiveAvgPool2d(1)
        hidden = channels // reduction
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=bias),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels, bias=bias),
            gate(),
        )
        self.expand = expand

    def forward(self, x):
        b, c, _, _ = x.size()
        y = self.fc(self.avg_pool(x).view(b, c)).view(b, c, 1, 1)
        return x * (y.expand_as(x) if self.expand else y)


class ConvSE(nn.Module):
    def __init__(self, pool, hidden_act=None, gate=torch.sigmoid, inverse=False):
        super().__init__()
        self.reduce, self.expand, self.act = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1), hidden_act or nn.ReLU()
        self.pool, self.gate, self.inverse = pool, gate, inverse

    def forward(self, x):
        y = self.gate(self.expand(self.act(self.reduce(self.pool(x)))))
        return y * x if self.inverse else x * y


EXCITATIONS = {
    "SELayer": lambda: SELayer(),
    "SELayer with bias": lambda: SELayer(bias=True, expand=False),
    "SELayer, hard gate": lambda: SELayer(gate=nn.Hardsigmoid),
    "mean": lambda: ConvSE(lambda x: x.mean((2, 3), keepdim=True)),
    "mean from behind": lambda: ConvSE(lambda x: x.mean([-1, -2], keepdim=True), nn.SiLU(), inverse=True),
    "torch.mean": lambda: ConvSE(lambda x: torch.mean(x, (2, 3), keepdim=True)),
    "F.adaptive_avg_pool2d": lambda: ConvSE(lambda x: F.adaptive_avg_pool2d(x, 1), gate=F.hardsigmoid),
    "F.adaptive_avg_pool2d of a pair": lambda: ConvSE(lambda x: F.adaptive_avg_pool2d(x, (1, 1)), F.relu),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", EXCITATIONS)
def test_squeeze_and_excitation(form, mode):
    torch.manual_seed(0)
    fast, _ = check(nn.Sequential(EXCITATIONS[form]()), image(16), SE, mode)
    assert called(fast, image(16))[1] == SE


@pytest.mark.parametrize("mode", MODES)
def test_squeeze_and_excitation_of_torchvision(mode):
    needs_torchvision()
    for options in ({}, {"activation": nn.SiLU, "scale_activation": nn.Hardsigmoid}):
        module = torchvision().ops.SqueezeExcitation(16, 4, **options)
        fast, _ = check(module, image(16), SE, mode)
        assert called(fast, image(16))[1] == SE


@pytest.mark.parametrize("mode", MODES)
def test_squeeze_and_excitation_of_timm(mode):
    layers = pytest.importorskip("timm.layers")
    fast, _ = check(layers.SqueezeExcite(16, rd_channels=4), image(16), SE, mode)
    assert called(fast, image(16))[1] == SE
    from timm.models._efficientnet_blocks import SqueezeExcite

    fast, _ = check(SqueezeExcite(16, 0.25, act_layer=nn.SiLU), image(16), SE, mode)
    assert called(fast, image(16))[1] == SE


class _Watched(SELayer):
    """The gate's values are wanted, too."""

    def forward(self, x):
        b, c, _, _ = x.size()
        y = self.fc(self.avg_pool(x).view(b, c)).view(b, c, 1, 1)
        return x * y + y.mean()


class _MaximumToo(SELayer):
    """CBAM's: the layers see maxima as well."""

    def forward(self, x):
        b, c, _, _ = x.size()
        y = self.fc(self.avg_pool(x).view(b, c) + x.amax((2, 3))).view(b, c, 1, 1)
        return x * y


class _OfAnother(SELayer):
    def forward(self, x):
        b, c, _, _ = x.size()
        return x.flip(1) * self.fc(self.avg_pool(x).view(b, c)).view(b, c, 1, 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "module",
    [
        _Watched(),
        _MaximumToo(),
        _OfAnother(),
        SELayer(gate=nn.Tanh),
        SELayer(pool=nn.AdaptiveMaxPool2d(1)),
        ConvSE(lambda x: x.mean((1, 2), keepdim=True).expand(-1, 16, -1, -1)[..., :1]),
    ],
    ids=["watched", "maximum", "of another", "tanh", "max pool", "other mean"],
)
def test_what_only_looks_like_squeeze_and_excitation(module, mode):
    model, x = ready(module, mode), image(16)
    fast, report = optimize(model, x, mode, tune=False)
    assert "squeeze_excite" not in swapped(report)
    if mode == "train":
        same_step(fast, model, x)
    else:
        assert relative(fast(x), exact(model, x)) < 1e-5
