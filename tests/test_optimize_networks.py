"""Networks of torchvision and timm, optimised: one of each family; with CNNKERNELS_TEST_NETWORKS=all many more."""

import copy
import os

import pytest
import torch

from cnnkernels.optimize import optimize
from cnnkernels.optimize._compare import without_dropout

from .nn_oracle import randomise
from .optimize_oracle import MODES, needs_torchvision, relative, swapped, torchvision

EVERYTHING = os.environ.get("CNNKERNELS_TEST_NETWORKS") == "all"

FUSED = {
    "alexnet": {"conv": 5, "linear": 3},
    "vgg11_bn": {"conv": 8, "linear": 3},
    "googlenet": {"conv": 57},
    "inception_v3": {"conv": 94},
    "resnet18": {"conv": 12, "conv_sum": 8},
    "resnext50_32x4d": {"conv": 37, "conv_sum": 16},
    "squeezenet1_1": {"conv": 26},
    "densenet121": {"conv": 60, "norm": 61},
    "mobilenet_v2": {"inverted_residual": 17},
    "mobilenet_v3_small": {"inverted_residual": 11},
    "mnasnet0_5": {"inverted_residual": 17},
    "shufflenet_v2_x0_5": {"shuffle_stage": 3},
    "efficientnet_b0": {"inverted_residual": 16},
    "regnet_y_400mf": {"squeeze_excite": 16},
    "convnext_tiny": {},
}
"""Of torchvision, one of each family, and at least how many regions of which kinds run in evaluation."""

SLOW_TO_TRAIN = ("vgg11_bn", "inception_v3", "convnext_tiny", "resnext50_32x4d", "densenet121", "googlenet", "alexnet")
TIMM = [
    "inception_v3",
    "cspdarknet53",
    "cspresnet50",
    "darknet53",
    "densenet121",
    "dla34",
    "dla60x",
    "dpn68",
    "efficientnet_b0",
    "efficientnet_es",
    "efficientnet_lite0",
    "fbnetc_100",
    "fbnetv3_b",
    "ghostnet_100",
    "ghostnetv2_100",
    "gernet_s",
    "hardcorenas_a",
    "hrnet_w18_small",
    "inception_v4",
    "legacy_seresnet18",
    "legacy_xception",
    "lcnet_100",
    "mixnet_s",
    "mnasnet_100",
    "mobilenetv1_100",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small",
    "mobileone_s0",
    "nfnet_l0",
    "regnetx_002",
    "regnety_002",
    "repghostnet_050",
    "repvgg_a0",
    "repvit_m0_9",
    "res2net50_26w_4s",
    "resnest14d",
    "resnet10t",
    "resnet18",
    "resnet26d",
    "resnetv2_50",
    "rexnet_100",
    "selecsls42b",
    "semnasnet_100",
    "seresnext26d_32x4d",
    "skresnet18",
    "spnasnet_100",
    "tf_efficientnet_b0",
    "tf_efficientnet_lite0",
    "tf_mixnet_s",
    "tf_mobilenetv3_small_100",
    "tinynet_e",
    "vgg11_bn",
    "vovnet39a",
    "wide_resnet50_2",
    "xception41",
]
TIMM_ALWAYS = ("ghostnet_100", "tf_mobilenetv3_small_100", "mixnet_s")


def image_for(name):
    size = 96 if "inception" in name or "xception" in name or name in ("alexnet", "dpn68") else 64
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(5))


def compare(model, x, mode, kinds):
    """Outputs of both to 1e-4 of the largest, or about as far from float64 as the network's own modules, in either layout."""
    model.train(mode == "train")
    state = {k: v.clone() for k, v in model.state_dict().items()}
    fast, report = optimize(model, x, mode, tune=False)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert list(fast.state_dict()) == list(state)
    found = swapped(report)
    assert all(found.get(kind, 0) >= n for kind, n in kinds.items()), str(report)
    assert not [e for e in report.entries if e.status == "undone"], str(report)
    ours, own = (_outputs(copy.deepcopy(m), x) for m in (fast, model))  # a call in training changes statistics
    last = _outputs(*(t.to(memory_format=torch.channels_last) for t in (copy.deepcopy(model), x)))
    exact = _outputs(copy.deepcopy(model).double(), x.double())
    for a, b, c, truth in zip(ours, own, last, exact, strict=True):
        assert relative(a, b) <= 1e-4 or relative(a, truth) <= 2 * max(relative(b, truth), relative(c, truth))
    return report


def _outputs(model, x):
    with torch.no_grad(), without_dropout():
        return torch.utils._pytree.tree_flatten(model(x))[0]


def torchvision_model(name):
    needs_torchvision()
    torch.manual_seed(0)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return randomise(torchvision().models.get_model(name, num_classes=10, **options))


def names_of_torchvision():
    """All, without those of which five copies do not fit into the memory of a small machine."""
    if not EVERYTHING or torchvision() is None:
        return []
    names = torchvision().models.list_models(module=torchvision().models)
    return [n for n in names if n not in ("regnet_y_128gf", "vit_h_14", "vit_l_16", "vit_l_32")]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FUSED)
def test_torchvision(name, mode):
    if mode == "train" and name in SLOW_TO_TRAIN and not EVERYTHING:
        pytest.skip("CNNKERNELS_TEST_NETWORKS=all runs it")
    compare(torchvision_model(name), image_for(name), mode, FUSED[name] if mode == "infer" else {})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [n for n in names_of_torchvision() if n not in FUSED])
def test_all_of_torchvision(name, mode):
    x = torch.randn(2, 3, 224, 224) if name.startswith(("vit", "swin", "maxvit")) else image_for(name)
    compare(torchvision_model(name), x, mode, {})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TIMM if EVERYTHING else TIMM_ALWAYS)
def test_timm(name, mode):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    report = compare(timm.create_model(name, num_classes=10), image_for(name), mode, {})
    assert report.swapped


def test_forty_of_timm_are_named():
    timm = pytest.importorskip("timm")
    assert len(set(TIMM)) >= 40
    assert set(TIMM) <= set(timm.list_models())
