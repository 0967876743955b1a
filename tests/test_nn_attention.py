"""``EfficientChannelAttention`` and ``CBAM`` against their definitions."""

import pytest
import torch
from torch.nn import functional as F

from cnnkernels.models import create_model
from cnnkernels.nn import CBAM, EfficientChannelAttention
from tests.networks.case import randomise

from .nn_oracle import close, image


@pytest.mark.parametrize(("channels", "kernel"), [(1, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)])
def test_eca_kernel(channels, kernel):
    """timm's sizes: the odd number from t = (log2(channels) + 1) / 2 up."""
    module = EfficientChannelAttention(channels)
    assert {k: tuple(v.shape) for k, v in module.state_dict().items()} == {"conv.weight": (1, 1, kernel)}


def test_eca():
    module = EfficientChannelAttention(8)
    x = image(c=8)
    mean = F.pad(x.mean((2, 3)), (1, 1))
    w = module.conv.weight.flatten()
    gate = torch.sigmoid(w[0] * mean[:, :-2] + w[1] * mean[:, 1:-1] + w[2] * mean[:, 2:])
    close(module(x), x * gate[:, :, None, None])


@pytest.mark.parametrize("training", [True, False])
def test_cbam(training):
    module = CBAM(32, reduction=4).train(training)
    randomise(module)
    x = image(c=32)
    w1, b1, w2, b2 = module.ChannelGate.parameters()

    def mlp(v):
        return F.linear(F.relu(F.linear(v, w1, b1)), w2, b2)

    y = x * torch.sigmoid(mlp(x.mean((2, 3))) + mlp(x.flatten(2).max(2)[0]))[:, :, None, None]
    seen = F.conv2d(torch.stack((y.max(1)[0], y.mean(1)), 1), module.SpatialGate.spatial.conv.weight, padding=3)
    bn = module.SpatialGate.spatial.bn
    norm = F.batch_norm(seen, bn.running_mean.clone(), bn.running_var.clone(), bn.weight, bn.bias, training)
    close(module(x), y * torch.sigmoid(norm))


def test_initial_weights_and_keys_of_the_authors():
    """The spatial gate starts as the same for every pixel and has slow running statistics."""
    model = create_model("cbam_resnet18")
    gate = model.layer1[0].cbam.SpatialGate.spatial.bn
    assert gate.weight.item() == 0
    assert gate.momentum == 0.01
    keys = [k.removeprefix("layer1.0.cbam.") for k in model.state_dict() if k.startswith("layer1.0.cbam.")]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert keys == [
        *(f"ChannelGate.mlp.{i}.{p}" for i in (1, 3) for p in ("weight", "bias")),
        "SpatialGate.spatial.conv.weight",
        *(f"SpatialGate.spatial.bn.{k}" for k in norm),
    ]


def test_errors():
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        EfficientChannelAttention(0)
    with pytest.raises(ValueError, match="reduction must be from 1 to channels=8, got 16"):
        CBAM(8)
