"""EfficientDet beside the package effdet: outputs, one training step, anchors, boxes, settings."""

import copy
import importlib
import math
from collections import Counter

import pytest
import torch
from torch import nn

import cnnkernels
from cnnkernels.models import create_model, list_models
from cnnkernels.models.efficientdet import EfficientDet
from cnnkernels.models.efficientdet_anchors import EfficientDetAnchors, decode_boxes, encode_boxes
from cnnkernels.nn import StochasticDepth
from tests import oracles
from tests.networks.case import calibrate, images, randomise

NAMES = list_models("efficientdet*")
SMALL = {"backbone": "tf_efficientnet_b0", "channels": 24, "cells": 2, "repeats": 2, "drop_path_rate": 0.0}


def effdet(name, **config):
    """effdet's network, with entries of its configuration replaced, and without stochastic depth."""
    package = oracles.package("effdet")
    whole = package.get_efficientdet_config(f"tf_{name}")
    whole.update({"backbone_args": {"drop_path_rate": 0.0}, **config})
    whole.num_levels = whole.max_level - whole.min_level + 1
    return package.EfficientDet(whole, pretrained_backbone=False)


def d0(size):
    return create_model("efficientdet_d0", drop_path_rate=0.0), effdet("efficientdet_d0", image_size=(size, size))


def d7(size):
    return create_model("efficientdet_d7", drop_path_rate=0.0), effdet("efficientdet_d7", image_size=(size, size))


def six_levels_and_plain_sums(size):
    """What D7x has, in a network of the size of D0."""
    theirs = effdet(
        "efficientdet_d0",
        image_size=(size, size),
        max_level=8,
        fpn_name="bifpn_sum",
        fpn_channels=24,
        fpn_cell_repeats=2,
        box_class_repeats=2,
    )
    return EfficientDet(**SMALL, levels=6, fusion="sum"), theirs


def on_meta(name):
    with torch.device("meta"):
        return create_model(name)


def theirs_on_meta(name):
    oracles.package("timm")  # before the meta device: it looks for torchvision's operators
    with torch.device("meta"):
        return effdet(name)


def their_anchors():
    oracles.package("effdet")
    return importlib.import_module("effdet.anchors")


def same_weights(pair, size):
    ours, theirs = pair
    randomise(ours)
    calibrate(ours, size)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def close(actual, expected, tolerance=1e-4):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


def maps_of(raw):
    return [*raw[0], *raw[1]]


@pytest.mark.parametrize(("pair", "size"), [(d0, 256), (d7, 128), (six_levels_and_plain_sums, 512)])
def test_outputs(pair, size):
    """Logits and box codes of every level; and the same from plain modules."""
    ours, theirs = same_weights(pair(size), size)
    x = images(1, size)
    with torch.no_grad():
        expected = maps_of(theirs.eval()(x))
        with cnnkernels.record_backends() as runs:
            actual = maps_of(ours.eval().raw(x))
        with cnnkernels.use_backend("reference"):
            plain = maps_of(ours.raw(x))
    assert len(actual) == len(expected) == 2 * len(ours.strides)
    for a, b, c in zip(actual, expected, plain, strict=True):
        assert b.abs().max() > 1e-3
        close(a, b)
        close(a, c)
    assert {r.backend for r in runs} == {"cpu"}


def test_images_need_not_be_square():
    """effdet's resampling is made for one size, ours follows the image: rows of 256 x 384 as in a network made for it."""
    ours, theirs = same_weights(
        (create_model("efficientdet_d0"), effdet("efficientdet_d0", image_size=(256, 384))), 256
    )
    x = images(1, 256, 384)
    with torch.no_grad():
        for a, b in zip(maps_of(ours.eval().raw(x)), maps_of(theirs.eval()(x)), strict=True):
            close(a, b)


def test_which_ops_run():
    """D0: 16 blocks; 24 nodes; two heads with 3 + 1 separable convolutions on 5 levels."""
    model = create_model("efficientdet_d0").eval()
    with torch.no_grad(), cnnkernels.record_backends() as runs:
        model(images(1, 128))
    count = Counter(r.op for r in runs)
    assert count["dwconv_bn_act"] == 16 + 24 + 2 * 4 * 5
    assert count["squeeze_excite"] == 16
    assert count["pointwise_conv_bn_act"] >= 24 + 2 * 4 * 5
    assert {r.backend for r in runs} == {"cpu"}


def test_training_step():
    """Loss, every gradient and every running statistic, in float64, where two correct networks agree closely."""
    size = 256
    ours, theirs = same_weights(d0(size), size)
    x, losses = images(2, size).double(), []
    for model in (ours, theirs):
        model.double().train()
        with cnnkernels.record_backends() as runs:
            raw = maps_of(model(x))
            losses.append(sum((y * images(2, y.shape[2], channels=y.shape[1])).mean() for y in raw))
            losses[-1].backward()
        if model is ours:
            assert {"dwconv_bn_act_train", "bn_act_train", "squeeze_excite", "dwconv_bn_act"} <= {r.op for r in runs}
            assert {r.backend for r in runs} == {"cpu"}
    close(*losses, 1e-9)
    expected = dict(theirs.named_parameters())
    assert sorted(expected) == sorted(name for name, _ in ours.named_parameters())
    largest = max(p.grad.abs().max().item() for p in expected.values())
    for name, p in ours.named_parameters():
        g = expected[name].grad
        # A bias before BatchNorm has a gradient of zero, which both compute as rounding errors.
        atol = 1e-8 * g.abs().max().item() + 1e-12 * largest
        torch.testing.assert_close(p.grad, g, rtol=1e-6, atol=atol, msg=name)
    statistics = dict(theirs.named_buffers())
    for name, b in ours.named_buffers():
        close(b, statistics[name], 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_settings(name):
    """Keys and shapes, BatchNorm's eps and momentum, the geometry of every convolution, the fusions."""
    ours, theirs = on_meta(name), theirs_on_meta(name)

    def described(model):
        state = {k: v.shape for k, v in model.state_dict().items()}
        norms = {n: (m.eps, m.momentum) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
        convolutions = {
            n: (m.kernel_size, m.stride, m.groups) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)
        }
        return state, norms, convolutions

    assert described(ours) == described(theirs)


@pytest.mark.parametrize("name", NAMES)
def test_anchors(name):
    ours, config = on_meta(name), oracles.package("effdet").get_efficientdet_config(f"tf_{name}")
    anchors = their_anchors().Anchors.from_config(config)
    sizes = [anchors.feat_sizes[level] for level in range(config.min_level, config.max_level + 1)]
    x, y, w, h = ours.anchors(sizes, dtype=torch.float64).unbind(1)  # as effdet computes the corners that it rounds
    corners = torch.stack((y - h / 2, x - w / 2, y + h / 2, x + w / 2), 1)
    torch.testing.assert_close(corners.float(), anchors.boxes)
    assert torch.equal(ours.anchors(sizes), ours.anchors(sizes, dtype=torch.float64).float())


def test_decode():
    """Every candidate's box is the package's own decoding of its code, its scores the sigmoids of its logits."""
    torch.manual_seed(0)
    model = EfficientDet(**SMALL, num_classes=5)
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    logits, codes = ([torch.randn(2, 9 * n, *size) for size in sizes] for n in (5, 4))
    predictions = model.decode((logits, codes))
    anchors = model.anchors(sizes)
    x, y, w, h = anchors.unbind(1)
    corners = torch.stack((y - h / 2, x - w / 2, y + h / 2, x + w / 2), 1)
    assert predictions.shape == (2, 9 * (96 + 24 + 6 + 2 + 1), 10)
    for image in range(2):
        flat = [
            torch.cat([y[image].permute(1, 2, 0).reshape(-1, n) for y in part]) for part, n in ((logits, 5), (codes, 4))
        ]
        x1, y1, x2, y2 = their_anchors().decode_box_outputs(flat[1], corners, output_xyxy=True).unbind(1)
        expected = torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), 1)
        torch.testing.assert_close(predictions[image, :, :4], expected, rtol=1e-5, atol=1e-3)
        assert torch.equal(predictions[image, :, 4], torch.ones(len(expected)))
        assert torch.equal(predictions[image, :, 5:], flat[0].sigmoid())
        again = encode_boxes(predictions[image, :, :4], anchors)
        torch.testing.assert_close(again, flat[1], rtol=1e-4, atol=1e-4)


def test_boxes_of_half_precision_are_exact_to_the_pixel():
    model = EfficientDet(**SMALL, num_classes=5)
    raw = tuple([torch.zeros(1, 9 * n, 64 >> i, 64 >> i).half() for i in range(5)] for n in (5, 4))
    predictions = model.decode(raw)
    assert predictions.dtype is torch.float32
    anchors = model.anchors([(64 >> i, 64 >> i) for i in range(5)])
    assert torch.equal(predictions[0, :, :4], anchors)


def test_anchors_by_hand():
    anchors = EfficientDetAnchors((8, 16), scale=4.0)([(2, 1), (1, 1)])
    assert anchors.shape == (27, 4)
    assert anchors[0].tolist() == [4, 4, 32, 32]
    assert anchors[9].tolist() == [4, 12, 32, 32]
    assert anchors[18].tolist() == [8, 8, 64, 64]
    assert anchors[4].tolist() == pytest.approx([4, 4, 32 * 2 ** (1 / 3) * 1.4, 32 * 2 ** (1 / 3) * 0.7])
    still = decode_boxes(torch.zeros(27, 4), anchors)
    assert torch.equal(still, anchors)
    with pytest.raises(ValueError, match="needs the sizes of 2 levels, got 1"):
        EfficientDetAnchors((8, 16))([(2, 1)])


def test_result():
    """In evaluation predictions, in training what the loss takes; sizes that do not divide by the strides are refused."""
    model = create_model("efficientdet_d0", num_classes=3, in_chans=1)
    x = images(1, 128, 256, channels=1)
    assert model.strides == (8, 16, 32, 64, 128)
    with torch.no_grad():
        classes, boxes = model.train()(images(2, 128, channels=1))
        assert [tuple(y.shape) for y in classes] == [(2, 27, n, n) for n in (16, 8, 4, 2, 1)]
        assert [tuple(y.shape) for y in boxes] == [(2, 36, n, n) for n in (16, 8, 4, 2, 1)]
        predictions = model.eval()(x)
        assert predictions.shape == (1, 9 * 2 * (16**2 + 8**2 + 4**2 + 2**2 + 1), 8)
        model.backend = "reference"
        close(model(x), predictions)
    with pytest.raises(ValueError, match=r"H and W multiples of 128, got \[1, 1, 128, 192\]"):
        model(images(1, 128, 192, channels=1))
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        create_model("efficientdet_d0", num_classes=0)


def test_stochastic_depth_as_timm():
    ours, theirs = create_model("efficientdet_d0"), effdet("efficientdet_d0", backbone_args={"drop_path_rate": 0.2})
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for stage in theirs.backbone.blocks for b in stage]
    found = [m.p for m in ours.modules() if isinstance(m, StochasticDepth)]
    assert found == pytest.approx(rates)
    x = images(2, 128)
    torch.manual_seed(0)
    with torch.no_grad():
        for m in ours.train().modules():
            if isinstance(m, nn.BatchNorm2d):
                m.eval()  # so that two passes differ by the images that drop out only
        assert not torch.equal(ours(x)[1][0], ours(x)[1][0])
        ours.eval()
        assert torch.equal(ours(x), ours(x))


def test_initial_weights():
    """As effdet's, which has them from the authors' code; every class starts with a score of 0.01."""
    torch.manual_seed(0)
    ours, theirs = create_model("efficientdet_d0").state_dict(), effdet("efficientdet_d0").state_dict()
    for key, value in ours.items():
        if key.startswith("backbone") or not value.is_floating_point():
            continue
        if key.endswith(".weight") and value.dim() == 4:
            assert value.std().item() == pytest.approx(theirs[key].std().item(), rel=0.15), key
            assert abs(value.mean().item()) < 0.2 * value.std().item(), key
        else:
            assert torch.equal(value, theirs[key]), key
    assert ours["class_net.predict.conv_pw.bias"].sigmoid().tolist() == pytest.approx([0.01] * 810)
    assert math.isclose(ours["box_net.predict.conv_pw.bias"].abs().max().item(), 0)


def test_checkpoint_of_effdet(tmp_path):
    theirs = effdet("efficientdet_d0")
    torch.save(theirs.state_dict(), tmp_path / "d0.pth")
    ours = create_model("efficientdet_d0", pretrained=tmp_path / "d0.pth").state_dict()
    assert all(torch.equal(ours[key], value) for key, value in theirs.state_dict().items())


def test_hooks_in_the_trunk_and_in_shared_heads():
    """A hook on a block sees it without its input; one on a shared convolution sees every level."""
    model = create_model("efficientdet_d0", num_classes=2).eval()
    randomise(model)
    calibrate(model, 128)
    model.eval()
    x, seen = images(1, 128), []
    with torch.no_grad():
        expected = model(x)
        block = model.get_submodule("backbone.blocks.1.1")
        block.register_forward_hook(lambda m, args, y: seen.append((args[0].clone(), y.clone())))
        model.class_net.conv_rep[0].conv_pw.register_forward_hook(lambda m, args, y: seen.append(y.shape[2]))
        close(model(x), expected)
        (before, after), *sizes = seen
        assert sizes == [16, 8, 4, 2, 1]
        plain = before
        for child in block:
            plain = child(plain)
        close(after, plain)


def test_copies_and_changed_weights():
    """What is kept of folded weights follows the weights, and no copy shares it."""
    model = EfficientDet(**SMALL, num_classes=2).eval()
    x = images(1, 128)
    with torch.no_grad():
        before = model(x)
        other = copy.deepcopy(model)
        for name, p in other.named_parameters():
            if name.endswith("edge_weights"):
                p.mul_(torch.arange(1.0, 1 + len(p)))
            elif "bn" in name:
                p.add_(0.1)
        with cnnkernels.use_backend("reference"):
            expected = other(x)
        close(other(x), expected)
        assert not torch.allclose(before, expected, rtol=1e-2)
        assert torch.equal(model(x), before)
