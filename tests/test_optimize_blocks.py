"""Larger regions that ``optimize`` finds: shuffles, RepVGG's branches, pyramids, bottlenecks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnkernels.nn as cknn
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
from .test_optimize_excitation import SE, SELayer

# ---- shuffles ----------------------------------------------------------------------------------------------------------------


def _by_view(x, groups=4):
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def _by_reshape(x):
    n, c, h, w = x.size()
    return torch.transpose(x.reshape(n, 2, c // 2, h, w), 1, 2).reshape(n, c, h, w)


def _by_permute(x):
    n, c, h, w = x.shape
    return x.view(n, 3, c // 3, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)


class Shuffled(nn.Module):
    def __init__(self, shuffle):
        super().__init__()
        self.conv, self.shuffle = nn.Conv2d(3, 24, 1), shuffle

    def forward(self, x):
        return self.shuffle(self.conv(x))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "shuffle", [_by_view, _by_reshape, _by_permute, nn.ChannelShuffle(4)], ids=["view", "reshape", "permute", "module"]
)
def test_channel_shuffles(shuffle, mode):
    kinds = {"channel_shuffle": 1} | ({"conv": 1} if mode == "infer" else {})
    fast, _ = check(Shuffled(shuffle), image(), kinds, mode)
    y, ran = called(fast, image())
    assert ran["channel_shuffle"] == 1
    with torch.no_grad():
        assert (
            torch.equal(y, shuffle(fast.conv(image().contiguous(memory_format=torch.channels_last)))) or mode == "infer"
        )


def _no_shuffle(x):
    """The same operations on rows instead of channels."""
    n, c, h, w = x.shape
    return x.view(n, c, 2, h // 2, w).transpose(2, 3).reshape(n, c, h, w)


def _other_order(x):
    n, c, h, w = x.shape
    return x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c // 4 * 2, 2 * h, w)


@pytest.mark.parametrize("shuffle", [_no_shuffle, _other_order])
def test_what_only_looks_like_a_shuffle(shuffle):
    check(Shuffled(shuffle), image(), {"conv": 1})


@pytest.mark.parametrize("mode", MODES)
def test_units_of_torchvisions_shufflenet(mode, count_direct):
    needs_torchvision()
    units = torchvision().models.shufflenetv2.InvertedResidual
    torch.manual_seed(0)
    model = nn.Sequential(units(16, 32, 2), units(32, 32, 1), units(32, 32, 1))
    fast, _ = check(model, image(16), {"shuffle_stage": 1}, mode)
    if mode == "train":
        ran = called(fast, image(16))[1]
        assert ran == {"bn_act_train": 7, "dwconv_bn_act_train": 4, "concat_shuffle_split": 2, "channel_shuffle": 1}
        return
    counted = count_direct("shuffle_stage")
    with torch.no_grad():
        fast(image(16))
    assert counted.calls == 1  # all three units


# ---- RepVGG ------------------------------------------------------------------------------------------------------------------


class Branches(nn.Module):
    def __init__(self, identity=True, stride=1, groups=1, order=0, last=F.relu):
        super().__init__()
        c = 8
        self.dense = nn.Sequential(nn.Conv2d(c, c, 3, stride, 1, groups=groups, bias=False), nn.BatchNorm2d(c))
        self.point = nn.Sequential(nn.Conv2d(c, c, 1, stride, groups=groups, bias=False), nn.BatchNorm2d(c))
        self.identity = nn.BatchNorm2d(c) if identity else None
        self.order, self.last = order, last

    def forward(self, x):
        terms = [self.dense(x), self.point(x), *([self.identity(x)] if self.identity is not None else [])]
        terms = terms[self.order :] + terms[: self.order]
        y = terms[0] + terms[1]
        if len(terms) == 3:
            y = y + terms[2] if self.order != 1 else terms[2] + y
        return self.last(y)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"identity": False},
        {"identity": False, "stride": 2},
        {"groups": 2},
        {"order": 1},
        {"order": 2},
        {"last": lambda y: y},
    ],
    ids=lambda o: ", ".join(f"{k}={v}" for k, v in o.items() if not callable(v)) or ("no activation" if o else "three"),
)
def test_branches_are_one_convolution(options):
    torch.manual_seed(0)
    fast, _ = check(Branches(**options), image(8), {"merged_branches": 1})
    calls = [n for n in fast.program(False).call.graph.nodes if n.op.startswith("call_")]
    assert len(calls) == 2  # entry, block


@pytest.mark.parametrize("identity", [True, False])
def test_branches_in_training_are_units_and_sums(identity):
    kinds = {"conv": 1, "conv_sum": 2} if identity else {"conv": 1, "conv_sum": 1}
    fast, _ = check(Branches(identity), image(8), kinds, "train")
    assert called(fast, image(8))[1] == {"bn_act_train": 3 if identity else 2}


def test_branches_that_see_different_images_are_not_merged():
    class Other(Branches):
        def forward(self, x):
            return F.relu(self.dense(x) + self.point(x.flip(3)) + self.identity(x))

    _, report = optimize(model := ready(Other()), image(8), tune=False)
    assert "merged_branches" not in swapped(report)
    check(model, image(8), swapped(report))


def test_own_block_and_timms():
    torch.manual_seed(0)
    model = ready(nn.Sequential(cknn.RepVGGBlock(8, 8), cknn.RepVGGBlock(8, 16, 2)))
    fast, _ = optimize(model, image(8), tune=False)
    with torch.no_grad():
        assert relative(fast(image(8)), exact(model, image(8))) < 1e-5
    timm = pytest.importorskip("timm")
    model = ready(timm.create_model("repvgg_a0", num_classes=10))
    fast, report = optimize(model, image(size=64, n=1), tune=False)
    assert swapped(report)["merged_branches"] == 22  # 1 + 2 + 4 + 14 + 1
    with torch.no_grad():
        assert relative(fast(image(size=64, n=1)), exact(model, image(size=64, n=1))) < 1e-4


# ---- pyramids ----------------------------------------------------------------------------------------------------------------


class SPP(nn.Module):
    def __init__(self, *sizes):
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in sizes)

    def forward(self, x):
        return torch.cat([x, *(pool(x) for pool in self.pools)], 1)


class SPPF(nn.Module):
    def __init__(self, k=5):
        super().__init__()
        self.m = nn.MaxPool2d(k, 1, k // 2)

    def forward(self, x):
        y1 = self.m(x)
        y2 = self.m(y1)
        return torch.cat((x, y1, y2, self.m(y2)), dim=1)


class Reversed(SPPF):
    def forward(self, x):
        y = self.m(x)
        return torch.cat((self.m(y), y, x), 1)


class Rounded(SPPF):
    def __init__(self):
        super().__init__()
        self.m = nn.MaxPool2d(5, 1, 2, ceil_mode=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "module", [SPP(5, 9, 13), SPP(3, 5), SPPF(), SPPF(3)], ids=["SPP", "small SPP", "SPPF", "SPPF 3"]
)
def test_pyramids(module, mode):
    model = nn.Sequential(module)
    fast, _ = optimize(ready(model, mode), image(8), mode, tune=False)
    y, ran = called(fast, image(8))
    assert ran == {"spp": 1}
    assert torch.equal(y, model(image(8)))
    if mode == "train":
        same_step(fast, model, image(8))


@pytest.mark.parametrize(
    "module", [Reversed(), Rounded(), nn.MaxPool2d(3, 1, 1)], ids=["reversed", "rounded up", "lone"]
)
def test_what_only_looks_like_a_pyramid(module):
    fast, report = optimize(ready(nn.Sequential(module)), image(8), tune=False)
    assert "spp" not in swapped(report)
    with torch.no_grad():
        assert torch.equal(fast(image(8)), module(image(8)))


# ---- inverted residuals ------------------------------------------------------------------------------------------------------


def _block(c_in, hidden, c_out, stride, squeeze, act=nn.ReLU6):
    layers = []
    if hidden != c_in:
        layers += [nn.Conv2d(c_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden), act()]
    layers += [nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), act()]
    if squeeze:
        layers.append(SELayer(hidden))
    return nn.Sequential(*layers, nn.Conv2d(hidden, c_out, 1, bias=False), nn.BatchNorm2d(c_out))


class Residual(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return x + self.block(x)


@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize("shape", [(16, 32, 16, 1), (16, 16, 16, 1), (16, 32, 24, 2), (16, 16, 8, 1)], ids=str)
def test_inverted_residuals(shape, squeeze, count_direct):
    torch.manual_seed(0)
    block = _block(*shape, squeeze)
    model = Residual(block) if shape[0] == shape[2] and shape[3] == 1 else block
    fast, _ = check(model, image(16), {"inverted_residual": 1})
    counted = count_direct("inverted_residual")
    with torch.no_grad():
        fast(image(16))
    assert counted.calls == 1  # one native call


@pytest.mark.parametrize("squeeze", [False, True])
def test_inverted_residuals_in_training(squeeze):
    torch.manual_seed(0)
    kinds = {"conv": 2, "conv_sum": 1} | (SE if squeeze else {})
    fast, _ = check(Residual(_block(16, 32, 16, 1, squeeze)), image(16), kinds, "train")
    ran = called(fast, image(16))[1]
    assert ran == {"bn_act_train": 2, "dwconv_bn_act_train": 1} | (SE if squeeze else {})
