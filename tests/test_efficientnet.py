"""What EfficientNet has of its own: settings of BatchNorm, dropout and stochastic depth, initial weights, sites of ops."""

import pytest
import torch
from torch import nn

import cnnkernels
from cnnkernels.models import create_model, list_models
from cnnkernels.nn import Conv2dSame, MBConv
from tests import oracles
from tests.oracles import timm_model, torchvision_model

TORCHVISION = [f"efficientnet_b{i}" for i in range(8)]
TIMM = [n for n in list_models("*efficientnet*") if n not in TORCHVISION]


def oracle(name):
    oracles.package("timm")  # before the meta device: it looks for torchvision's operators
    with torch.device("meta"):
        return torchvision_model(name) if name in TORCHVISION else timm_model(name)


def on_meta(name, **kw):
    with torch.device("meta"):
        return create_model(name, **kw)


def norms(model):
    return [(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def convolutions(model):
    return [(m.kernel_size, m.stride, m.groups) for m in model.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("name", TORCHVISION + TIMM)
def test_settings_of_the_layers(name):
    """Of the large networks, too, whose training step is not part of every run."""
    ours, theirs = on_meta(name), oracle(name)
    assert norms(ours) == norms(theirs)
    assert convolutions(ours) == convolutions(theirs)
    strided = {type(m) for m in ours.modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)}
    assert strided == {Conv2dSame if name.startswith("tf_") else nn.Conv2d}


@pytest.mark.parametrize("name", TORCHVISION)
def test_drops_as_torchvision(name):
    ours, theirs = on_meta(name), oracle(name)
    assert ours.classifier[0].p == theirs.classifier[0].p
    rates = [m.p for m in theirs.modules() if type(m).__name__ == "StochasticDepth"]
    assert [m.stochastic_depth.p for m in ours.modules() if isinstance(m, MBConv)] == pytest.approx(rates)
    assert rates[0] == 0 < rates[-1]


def test_same_keys_and_initialisation_as_torchvision():
    torch.manual_seed(0)
    ours, theirs = create_model("efficientnet_b0").state_dict(), torchvision_model("efficientnet_b0").state_dict()
    assert [(k, v.shape) for k, v in ours.items()] == [(k, v.shape) for k, v in theirs.items()]
    for k, v in ours.items():
        if v.numel() > 5000:
            assert v.std().item() == pytest.approx(theirs[k].std().item(), rel=0.1), k
        elif k.endswith("bias"):
            assert not v.any()


@pytest.mark.parametrize("name", ["efficientnet_b0", "tf_efficientnet_b0", "efficientnet_lite0"])
def test_every_site_is_fused(name):
    model = create_model(name).eval()
    with torch.no_grad(), cnnkernels.record_backends() as runs:
        model(torch.randn(1, 3, 64, 64))
    assert sum(r.op == "dwconv_bn_act" for r in runs) == 16
    assert sum(r.op == "squeeze_excite" for r in runs) == (0 if "lite" in name else 16)
    assert {r.backend for r in runs} == {"cpu"}
