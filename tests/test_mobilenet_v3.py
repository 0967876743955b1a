"""MobileNetV3's options against torchvision's."""

import importlib

import pytest
import torch

from cnnkernels.models import create_model
from tests.networks.case import calibrate, copy_weights, images, randomise
from tests.oracles import package


@pytest.mark.parametrize("arch", ["mobilenet_v3_large", "mobilenet_v3_small"])
@pytest.mark.parametrize(
    "options", [{"reduced_tail": True}, {"dilated": True}, {"width_mult": 0.75}, {"dilated": True, "width_mult": 1.25}]
)
def test_options(arch, options):
    package("torchvision")
    theirs = importlib.import_module("torchvision.models.mobilenetv3")
    blocks, last = theirs._mobilenet_v3_conf(arch, **options)
    other = theirs.MobileNetV3(blocks, last, dropout=0.0)
    ours = create_model(arch, drop_rate=0.0, **options)
    randomise(ours)
    calibrate(ours, 64)
    copy_weights(ours, other, by_order=False)
    x = images(1, 97, 65)
    with torch.no_grad():
        y, expected = ours.eval()(x), other.eval()(x)
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_dilated_keeps_the_resolution():
    model = create_model("mobilenet_v3_large", features_only=True, dilated=True).eval()
    assert model.strides == [2, 4, 8, 16]
    assert model(torch.zeros(1, 3, 64, 64))[-1].shape == (1, 160, 4, 4)
