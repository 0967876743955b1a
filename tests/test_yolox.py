"""YOLOX beside the package ``yolox`` with the same weights, and beside its own plain modules."""

import importlib

import pytest
import torch
from torch import nn

import cnnkernels
from cnnkernels.models import create_model, list_models
from tests import oracles
from tests.networks.case import calibrate, copy_weights, images, randomise

SIZES = {
    "nano": (0.33, 0.25),
    "tiny": (0.33, 0.375),
    "s": (0.33, 0.5),
    "m": (0.67, 0.75),
    "l": (1.0, 1.0),
    "x": (1.33, 1.25),
}


def official(name):
    size = name.removeprefix("yolox_")
    if size in SIZES:
        return oracles.yolox_model(*SIZES[size], depthwise=size == "nano")
    oracles.package("yolox")
    models = importlib.import_module("yolox.models")
    model = models.YOLOX(models.YOLOFPN(), models.YOLOXHead(80, 1.0, in_channels=[128, 256, 512], act="lrelu"))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03
    return model


def trained(name):
    model = create_model(name)
    randomise(model)
    calibrate(model, 64)
    return model


def close(actual, expected, tolerance=1e-4):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


@pytest.mark.parametrize("name", list_models("yolox*"))
def test_outputs(name):
    """Equal to the official network and to the plain modules; the same keys in the same order.

    Of the images that the statistics are of: on others a random network of this depth, without activations that
    saturate, returns numbers of any size.
    """
    ours, other = create_model(name), official(name).eval()
    assert list(ours.state_dict()) == list(other.state_dict())
    randomise(ours)
    for height, width in ((64, 96), (96, 64)):
        calibrate(ours, height, width)
        copy_weights(ours.eval(), other, by_order=False)
        with torch.no_grad():
            x = images(4, height, width)
            y, expected = ours(x), other(x)
            ours.backend = "reference"
            plain = ours(x)
            ours.backend = None
        assert y.shape == (4, height * width // 64 * 21 // 16, 85)
        assert 1e-2 < y[..., 5:].std() < 0.3
        for columns in (slice(0, 4), slice(4, 5), slice(5, None)):  # boxes are pixels, scores below 1
            close(y[..., columns], expected[..., columns])
            close(y[..., columns], plain[..., columns])


def test_settings_of_every_batch_norm():
    norms = [m for m in create_model("yolox_nano").modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 104
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}


def test_training_step():
    """Logits, every gradient and every running statistic of nano, in float64; by the fused ops."""
    ours = trained("yolox_nano")
    other = official("yolox_nano")
    copy_weights(ours, other, by_order=False)
    x = images(2, 64).double()
    ours.double().train()
    other.double().train()
    with cnnkernels.record_backends() as runs:
        raw = ours(x)
        assert [y.shape for y in raw] == [(2, 85, s, s) for s in (8, 4, 2)]
        y = torch.cat([level.flatten(2) for level in raw], dim=2).permute(0, 2, 1)
        y = torch.cat((y[..., :4], y[..., 4:].sigmoid()), dim=-1)
        torch.manual_seed(3)
        weight = torch.randn_like(y)
        (y * weight).sum().backward()
    assert {(r.op, r.backend) for r in runs} >= {("bn_act_train", "cpu"), ("dwconv_bn_act_train", "cpu")}
    assert {r.backend for r in runs} == {"cpu"}
    # The head alone as in evaluation: what it returns in training are losses.  Its layers stay as they are.
    other.head.training, other.head.decode_in_inference = False, False
    expected = other.head(other.backbone(x))
    (expected * weight).sum().backward()
    close(y, expected, 1e-10)
    largest = max(p.grad.abs().max().item() for p in other.parameters())
    for p, q in zip(ours.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-7, atol=1e-12 * largest)
    for a, b in zip(ours.buffers(), other.buffers(), strict=True):
        close(a, b, 1e-10)


def test_backends_of_nano():
    model, x = trained("yolox_nano").eval(), images(1, 64)
    with torch.no_grad(), cnnkernels.record_backends() as runs:
        model(x)
    assert {r.backend for r in runs} == {"cpu"}
    assert {"dwconv_bn_act", "pointwise_conv_bn_act"} <= {r.op for r in runs}
    model.backend = "reference"
    with torch.no_grad(), cnnkernels.record_backends() as runs:
        model(x)
    assert not {r.backend for r in runs} - {"reference"}


def test_decode_of_half_types_is_exact_to_the_pixel():
    model = create_model("yolox_nano", num_classes=1)
    raw = [torch.zeros(1, 6, 52 // 2**i, 52 // 2**i, dtype=torch.bfloat16) for i in range(3)]
    boxes = model.decode(raw)[0, :, :4]
    assert boxes.dtype is torch.float32
    assert boxes[51].tolist() == [408, 0, 8, 8]
    assert boxes[52 * 52 + 26 + 3].tolist() == [48, 16, 16, 16]
    assert boxes[-1].tolist() == [384, 384, 32, 32]


def test_initial_scores():
    """All biases of the last layers say 1 %: small losses from thousands of empty cells."""
    model = create_model("yolox_tiny", num_classes=3)
    for layers in (model.head.cls_preds, model.head.obj_preds):
        for layer in layers:
            close(layer.bias.sigmoid(), torch.full_like(layer.bias, 0.01), 1e-6)


def test_checkpoint_with_the_tensors_under_model(tmp_path):
    """As the authors publish them; and as training leaves them, with NumPy's numbers beside."""
    model = trained("yolox_nano")
    state = model.state_dict()
    for beside in ({"start_epoch": 300}, {"best_ap": torch.rand(()).numpy()[()]}):
        torch.save({"model": state, "optimizer": {"lr": 0.1}, **beside}, tmp_path / "nano.pth")
        loaded = create_model("yolox_nano", pretrained=tmp_path / "nano.pth").state_dict()
        assert all(torch.equal(loaded[k], v) for k, v in state.items())
    with pytest.raises(ValueError, match="YOLOX") as error:
        create_model("yolox_tiny", pretrained=tmp_path / "nano.pth")
    assert "of another shape" in str(error.value)


@pytest.mark.parametrize("shape", [(1, 3, 64, 40), (3, 64, 64), (1, 3, 0, 32)])
def test_sizes_that_do_not_fit(shape):
    with pytest.raises(ValueError, match="multiples of 32"):
        create_model("yolox_nano")(torch.zeros(shape))
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        create_model("yolox_nano", num_classes=0)
