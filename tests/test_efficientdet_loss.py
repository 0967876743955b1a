"""EfficientDet's matching and loss against the package effdet: the same anchors, values and gradients."""

from __future__ import annotations

import importlib
import math

import pytest
import torch

from cnnkernels.detection.efficientdet_loss import EfficientDetLoss
from cnnkernels.detection.overlap_matching import OverlapMatching
from cnnkernels.detection.padded_targets import pad_targets
from cnnkernels.models.efficientdet_anchors import EfficientDetAnchors

from . import oracles, yolox_scenes

STRIDES, SIZE, CLASSES = (8, 16, 32, 64, 128), 128, 3
ANCHORS = EfficientDetAnchors(STRIDES)
SIZES = [(SIZE // stride,) * 2 for stride in STRIDES]


def scene(seed=0, dtype=torch.float32, most=8):
    torch.manual_seed(seed)
    targets = yolox_scenes.targets(3, SIZE, CLASSES, most, dtype)
    classes, codes = (
        [torch.randn(3, 9 * n, *size, dtype=dtype, requires_grad=True) for size in SIZES] for n in (CLASSES, 4)
    )
    return targets, (classes, codes)


def effdet_settings(smoothing=0.0):
    oracles.package("timm")
    oracles.package("effdet")
    config = importlib.import_module("effdet.config").get_efficientdet_config("tf_efficientdet_d0")
    config.update(image_size=(SIZE, SIZE), num_classes=CLASSES, jit_loss=False, label_smoothing=smoothing)
    return config


def anchors_of_effdet():
    config = effdet_settings()
    return importlib.import_module("effdet.anchors").Anchors.from_config(config)


def labelled_by_effdet(targets):
    """Class ids and box codes for each level, and the number of positives of each image, of AnchorLabeler."""
    anchors = anchors_of_effdet()
    labeler = importlib.import_module("effdet.anchors").AnchorLabeler(anchors, CLASSES)
    boxes = [rows[:, [2, 1, 4, 3]].float() for rows in targets]
    return labeler.batch_label_anchors(boxes, [rows[:, 0] + 1 for rows in targets])


def match(targets):
    """Of the package's anchors: several anchors around an object tie, and a rounding would decide between them."""
    corners = anchors_of_effdet().boxes[:, [1, 0, 3, 2]]
    like = torch.zeros((), dtype=torch.float32)
    padded = pad_targets("test", targets, CLASSES, len(targets), (SIZE, SIZE), like)
    return padded, OverlapMatching()(corners, padded)


@pytest.mark.parametrize("seed", range(6))
def test_matching_is_the_packages(seed):
    targets, _ = scene(seed, most=3 + 10 * seed)
    labels, _, positives = labelled_by_effdet(targets)
    padded, matches = match(targets)
    theirs = torch.cat([level.flatten(1) for level in labels], dim=1)
    mine = torch.full_like(theirs, -1)
    mine[matches.image, matches.candidate] = padded.labels[matches.image, matches.target]
    assert torch.equal(mine, theirs)
    assert torch.bincount(matches.image, minlength=3).tolist() == positives.tolist()
    assert (matches.overlap < 0.5).any() and (matches.overlap > 0.5).any()  # forced ones, and others


@pytest.mark.parametrize("smoothing", [0.0, 0.01])
@pytest.mark.parametrize("seed", range(3))
def test_loss_is_the_packages(seed, smoothing):
    targets, raw = scene(seed)
    labels, codes, positives = labelled_by_effdet(targets)
    config = effdet_settings(smoothing)
    theirs = importlib.import_module("effdet.loss").DetectionLoss(config)
    wanted = dict(zip(("loss", "cls", "box"), theirs(*raw, labels, codes, positives), strict=True))
    wanted["box"] = 50 * wanted["box"]
    parts = EfficientDetLoss(CLASSES, ANCHORS, STRIDES, label_smoothing=smoothing)(raw, targets)
    assert sorted(parts) == ["box", "cls", "loss"]
    for name, value in parts.items():
        torch.testing.assert_close(value, wanted[name], rtol=2e-6, atol=0)
    leaves = [*raw[0], *raw[1]]
    found, expected = (torch.autograd.grad(losses["loss"], leaves) for losses in (parts, wanted))
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_every_object_has_an_anchor():
    """Even one that is much smaller than all anchors."""
    targets = [torch.tensor([[0, 30.0, 30, 33, 31], [1, 70, 70, 72, 74]])]
    _, matches = match(targets)
    assert sorted(matches.target.tolist()) == [0, 1]
    assert (matches.overlap < 0.1).all() and (matches.overlap > 0).all()


def test_a_perfect_code_has_no_box_loss():
    targets, (classes, codes) = scene(1)
    _, wanted, _ = labelled_by_effdet(targets)
    perfect = [level.permute(0, 3, 1, 2) for level in wanted]
    criterion = EfficientDetLoss(CLASSES, ANCHORS, STRIDES)
    assert criterion((classes, perfect), targets)["box"] < 1e-5
    assert criterion((classes, codes), targets)["box"] > 1


def test_no_objects():
    """Only the classes learn, and they learn that nothing is there."""
    _, raw = scene()
    parts = EfficientDetLoss(CLASSES, ANCHORS, STRIDES)(raw, [torch.zeros(0, 5)] * 3)
    assert parts["box"] == 0
    assert parts["loss"].isfinite()
    for gradient in torch.autograd.grad(parts["loss"], raw[0], retain_graph=True):
        assert (gradient > 0).all()
    for gradient in torch.autograd.grad(parts["loss"], raw[1]):
        assert (gradient == 0).all()


def test_objects_that_are_left_out():
    targets, raw = scene(2)
    odd = torch.tensor([[0, -30, -30, -2, -2], [1, 300, 40, 340, 80], [2, 50, 50, 50, 90], [1, 60, 60, 40, 90.0]])
    criterion = EfficientDetLoss(CLASSES, ANCHORS, STRIDES)
    with_odd, without = criterion(raw, [torch.cat((odd, rows)) for rows in targets]), criterion(raw, targets)
    for name, value in without.items():
        torch.testing.assert_close(with_odd[name], value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_outputs_under_autocast(dtype):
    targets, raw = scene()
    half = tuple([level.detach().to(dtype) for level in levels] for levels in raw)
    single = tuple([level.float() for level in levels] for levels in half)
    criterion = EfficientDetLoss(CLASSES, ANCHORS, STRIDES)
    with torch.autocast("cpu", dtype=dtype):
        parts = criterion(half, targets)
    assert parts["loss"].dtype is torch.float32
    assert parts["loss"] == criterion(single, targets)["loss"]


def test_bad_input():
    targets, raw = scene()
    criterion = EfficientDetLoss(CLASSES, ANCHORS, STRIDES)
    for value, message in ((math.nan, "targets of image 2 must be finite"), (CLASSES, "class ids of image 2 must be")):
        bad = targets[2].clone()
        bad[0, 0] = value
        with pytest.raises(ValueError, match=f"EfficientDetLoss: {message}"):
            criterion(raw, [*targets[:2], bad])
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        EfficientDetLoss(0, ANCHORS, STRIDES)
    with pytest.raises(ValueError, match="label_smoothing must be from 0 to 1"):
        EfficientDetLoss(CLASSES, ANCHORS, STRIDES, label_smoothing=-0.1)
    with pytest.raises(ValueError, match="two lists of 5 levels, got 4 and 5"):
        criterion((raw[0][1:], raw[1]), targets)
    with pytest.raises(ValueError, match=r"class logits must be \[N, A \* 5, H, W\], got \[3, 27, 16, 16\]"):
        EfficientDetLoss(5, ANCHORS, STRIDES)(raw, targets)
    with pytest.raises(ValueError, match="raw must be of 3069 anchors, got 1023 and 3069"):
        EfficientDetLoss(9, ANCHORS, STRIDES)(raw, targets)
