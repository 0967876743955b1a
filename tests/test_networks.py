"""Every network that ``create_model`` knows: published counts, feature maps, heads.  Nothing is computed (meta device)."""

import csv
import pathlib

import pytest
import torch
from torch import nn

from cnnkernels.models import create_model, list_models, model_entry
from cnnkernels.models.cost import cost

TABLE = {row["name"]: row for row in csv.DictReader((pathlib.Path(__file__).parent / "networks/counts.csv").open())}

# Multiply-adds that a table leaves out.
MORE = {"se_inception_v3": sum(2 * c * (c // 16) for c in (192, 256, 288, 288, *[768] * 5, 1280, 2048))}
"""Its public code has the layers of the squeeze-and-excitations, counted as parameters, but never calls them."""


def on_meta(name, **kw):
    with torch.device("meta"):
        return create_model(name, **kw).eval()


def image(size, channels=3):
    return torch.zeros(1, channels, size, size, device="meta")


@pytest.mark.parametrize("name", list_models(task="classification"))
def test_published_counts(name):
    row, size = TABLE[name], model_entry(name).input_size
    model = on_meta(name)
    counted = cost(model, (1, 3, size, size))
    assert size == int(row["input"])
    assert (counted.parameters, counted.macs) == (int(row["parameters"]), int(row["macs"]) + MORE.get(name, 0))
    if row["keys"]:  # empty: published as a Caffe prototxt
        assert len(model.state_dict()) == int(row["keys"])


@pytest.mark.parametrize("name", list_models(task="classification"))
def test_feature_maps(name):
    """Shapes as described, from a network that has nothing else, which is what a whole checkpoint is checked against."""
    size = 256
    model, whole = on_meta(name, features_only=True), on_meta(name)
    maps = model(image(size))
    assert [m.shape[1] for m in maps] == model.channels
    assert len(maps) == len(set(model.strides))
    for m, stride in zip(maps, model.strides, strict=True):
        # Networks without padding (Inception) lose up to 4 rows on the way to a map.
        assert size / stride - 4 <= m.shape[2] <= size / stride + 1, (m.shape, stride)
    own, all_keys = set(model.state_dict()), set(whole.state_dict())
    assert own <= all_keys
    left = all_keys - own
    assert left and all(k.startswith(model.left_out) for k in left)
    chosen = on_meta(name, features_only=True, out_indices=(-2,))
    assert [m.shape for m in chosen(image(size))] == [maps[-2].shape]
    assert (chosen.channels, chosen.strides) == (model.channels[-2:-1], model.strides[-2:-1])


@pytest.mark.parametrize("name", ["alexnet", "vgg11_bn", "squeezenet1_0", "densenet121", "resnet18", "mobilenet_v2"])
def test_layers_behind_the_last_chosen_map_are_left_out(name):
    """Of flat Sequentials, too; and what is left is what the whole network's checkpoint may skip."""
    whole, model, early = (
        on_meta(name, **kw) for kw in ({}, {"features_only": True}, {"features_only": True, "out_indices": (1,)})
    )
    weights = [sum(p.numel() for p in m.parameters()) for m in (model, early)]
    assert weights[1] < 0.5 * weights[0]
    assert [m.shape for m in early(image(64))] == [model(image(64))[1].shape]
    left = set(whole.state_dict()) - set(early.state_dict())
    assert left and all(k.startswith(early.left_out) for k in left)


@pytest.mark.parametrize("name", list_models(task="classification"))
def test_heads(name):
    size = model_entry(name).input_size
    model = on_meta(name, num_classes=7, in_chans=1)
    assert model(image(size, 1)).shape == (1, 7)
    model.reset_classifier(0)
    assert model(image(size, 1)).shape == (1, model.num_features)
    headless = on_meta(name, num_classes=0, in_chans=1)
    assert headless.state_dict().keys() == model.state_dict().keys()
    model.reset_classifier(3)
    assert model(image(size, 1)).shape == (1, 3)
    assert not isinstance(model.get_submodule(model.last_layer), nn.Identity)
