"""Auxiliary classifiers of GoogLeNet and Inception v3, against torchvision's."""

import pytest
import torch

from cnnkernels.models import create_model
from tests.networks.case import calibrate, images, randomise
from tests.oracles import torchvision_model

SIZES = {"googlenet": (128, 13_004_888), "inception_v3": (299, 27_161_264)}
OURS = {"googlenet": {"aux_drop_rate": 0.0}, "inception_v3": {}}
THEIRS = {"googlenet": {"dropout_aux": 0.0}, "inception_v3": {}}


@pytest.mark.parametrize("name", SIZES)
def test_heads(name, tmp_path):
    size, parameters = SIZES[name]
    ours = create_model(name, aux_logits=True, drop_rate=0.0, transform_input=True, **OURS[name])
    assert sum(p.numel() for p in ours.parameters()) == parameters
    randomise(ours)
    calibrate(ours, size)
    other = torchvision_model(
        name, aux_logits=True, transform_input=True, init_weights=False, dropout=0.0, **THEIRS[name]
    )
    other.load_state_dict(ours.state_dict(), strict=True)
    x = images(2, size)
    with torch.no_grad():
        got, want = ours.train()(x), other.train()(x)
        assert got._fields == want._fields
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())
        torch.testing.assert_close(ours.eval()(x), other.eval()(x), rtol=1e-4, atol=1e-3)
    # A checkpoint with heads fits the network without.
    torch.save(ours.state_dict(), tmp_path / "w.pth")
    without = create_model(name, pretrained=tmp_path / "w.pth", transform_input=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(without(x), ours(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", SIZES)
def test_reset_classifier(name):
    with torch.device("meta"):
        model = create_model(name, aux_logits=True).train()
        model.reset_classifier(5)
    x = torch.zeros(2, 3, 299, 299, device="meta")
    assert {y.shape for y in model(x)} == {(2, 5)}
    with torch.device("meta"):
        model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)
    with torch.device("meta"):
        maps = create_model(name, aux_logits=True, features_only=True).train()
    assert len(maps(x)) == 5
    assert not any("ux" in key for key in maps.state_dict())


@pytest.mark.parametrize("name", SIZES)
def test_transform_input_is_for_colours(name):
    with torch.device("meta"), pytest.raises(ValueError, match="transform_input is for in_chans=3, got in_chans=1"):
        create_model(name, in_chans=1, transform_input=True)
