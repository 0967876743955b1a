"""YOLOXLoss against the package yolox: values and gradients; the L1 term, the kinds of box loss, half types, odd targets."""

from __future__ import annotations

import importlib
import math

import pytest
import torch

from cnnkernels.detection.simota import SimOTA
from cnnkernels.detection.yolox_loss import YOLOXLoss

from . import oracles, yolox_scenes

RELEASED = SimOTA(2.5, boxes_too=True, outside=1e5)
SIZE, CLASSES = 96, 4


def scene(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    targets = yolox_scenes.targets(3, SIZE, CLASSES, dtype=dtype)
    raw = [level.requires_grad_() for level in yolox_scenes.outputs(targets, SIZE, CLASSES, dtype)]
    return targets, raw


def loss_of_yolox(raw, targets, use_l1, iou_kind):
    """(loss, box, obj, cls, l1) of YOLOXHead.get_losses."""
    oracles.package("yolox")
    head = importlib.import_module("yolox.models.yolo_head").YOLOXHead(CLASSES)
    head.use_l1, head.iou_loss.loss_type = use_l1, {"iou2": "iou", "giou": "giou"}[iou_kind]
    outputs, x, y, strides, codes = [], [], [], [], []
    for k, (level, stride) in enumerate(zip(raw, yolox_scenes.STRIDES, strict=True)):
        codes.append(level[:, :4].flatten(2).mT)
        rows, grid = head.get_output_and_grid(level.clone(), k, stride, level.type())
        outputs.append(rows)
        x.append(grid[..., 0])
        y.append(grid[..., 1])
        strides.append(torch.full((1, grid.shape[1]), float(stride), dtype=level.dtype))
    labels = yolox_scenes.as_yolox(targets, raw[0].dtype)
    return head.get_losses(None, x, y, strides, labels, torch.cat(outputs, 1), codes, dtype=raw[0].dtype)[:5]


def numbers(parts):
    return {name: float(value.detach()) for name, value in parts.items()}


def gradients(loss, raw):
    return torch.autograd.grad(loss, raw)


@pytest.mark.parametrize("use_l1", [False, True])
@pytest.mark.parametrize("iou_kind", ["iou2", "giou"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_package(seed, iou_kind, use_l1):
    targets, raw = scene(seed)
    criterion = YOLOXLoss(CLASSES, iou_kind=iou_kind, use_l1=use_l1, assigner=RELEASED)
    parts, wanted = criterion(raw, targets), loss_of_yolox(raw, targets, use_l1, iou_kind)
    assert list(parts) == ["loss", "box", "obj", "cls", "l1"]
    values = [float(torch.as_tensor(value).detach()) for value in wanted]
    assert list(numbers(parts).values()) == pytest.approx(values, rel=1e-6)  # its class cost is float32
    assert (numbers(parts)["l1"] > 0) == use_l1
    for mine, theirs in zip(gradients(parts["loss"], raw), gradients(wanted[0], raw), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


def test_an_image_without_objects_beside_others():
    targets, raw = scene(4)
    targets[0] = targets[0][:0]
    parts, wanted = YOLOXLoss(CLASSES, assigner=RELEASED)(raw, targets), loss_of_yolox(raw, targets, False, "iou2")
    assert numbers(parts)["loss"] == pytest.approx(float(wanted[0].detach()), rel=1e-6)


def test_l1_is_switched_while_training():
    targets, raw = scene()
    criterion = YOLOXLoss(CLASSES)
    before = numbers(criterion(raw, targets))
    criterion.use_l1 = True
    after = numbers(criterion(raw, targets))
    assert before["l1"] == 0
    assert after["loss"] == pytest.approx(before["loss"] + after["l1"])


@pytest.mark.parametrize("iou_kind", ["iou", "giou", "diou", "ciou"])
def test_kinds_of_box_loss(iou_kind):
    """A prediction that is its object has no box loss, whatever the kind; another one has."""
    targets = [torch.tensor([[1, 16, 24, 80, 72]], dtype=torch.float64)]
    raw = yolox_scenes.outputs(targets, SIZE, CLASSES)
    for level, stride in zip(raw, yolox_scenes.STRIDES, strict=True):
        cells = torch.arange(SIZE // stride)
        level[0, 0], level[0, 1] = (48 / stride - cells)[None], (48 / stride - cells)[:, None]
        level[0, 2], level[0, 3] = math.log(64 / stride), math.log(48 / stride)
    criterion = YOLOXLoss(CLASSES, iou_kind=iou_kind, use_l1=True)
    parts = numbers(criterion(raw, targets))
    assert parts["box"] == pytest.approx(0, abs=1e-6)
    assert parts["l1"] == pytest.approx(0, abs=1e-6)
    for level in raw:
        level[0, 2] += 0.5
    assert float(criterion(raw, targets)["box"]) > 0.1


def test_no_objects():
    """Only the objectness learns, and it learns that nothing is there."""
    _, raw = scene(dtype=torch.float32)
    parts = YOLOXLoss(CLASSES, use_l1=True)(raw, [torch.zeros(0, 5)] * 3)
    assert parts["box"] == parts["cls"] == parts["l1"] == 0
    everywhere = torch.cat([level[:, 4].flatten() for level in raw])
    nothing = torch.nn.functional.softplus(everywhere).sum()
    assert numbers(parts)["loss"] == pytest.approx(float(nothing.detach()), rel=1e-5)
    for gradient in gradients(parts["loss"], raw):
        assert (gradient[:, 4] > 0).all()
        assert (gradient[:, :4] == 0).all() and (gradient[:, 5:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_outputs_under_autocast(dtype):
    targets, raw = scene(dtype=torch.float32)
    half = [level.detach().to(dtype).requires_grad_() for level in raw]
    single = [level.detach().float().requires_grad_() for level in half]
    with torch.autocast("cpu", dtype=dtype):
        parts = YOLOXLoss(CLASSES)(half, targets)
    wanted = YOLOXLoss(CLASSES)(single, targets)
    assert all(value.dtype is torch.float32 for value in parts.values())
    assert parts["loss"] == wanted["loss"]
    for mine, theirs in zip(gradients(parts["loss"], half), gradients(wanted["loss"], single), strict=True):
        torch.testing.assert_close(mine, theirs.to(dtype))


def test_step_by_step_it_learns():
    """Gradient descent on the outputs themselves finds the objects."""
    targets, raw = scene(1, dtype=torch.float32)
    optimizer = torch.optim.Adam(raw, lr=0.1)
    criterion = YOLOXLoss(CLASSES)
    first = numbers(criterion(raw, targets))
    for _ in range(100):
        optimizer.zero_grad()
        criterion(raw, targets)["loss"].backward()
        optimizer.step()
    last = numbers(criterion(raw, targets))
    assert last["loss"] < 0.1 * first["loss"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0, 1, 2, math.nan, 8]], "targets of image 1 must be finite"),
        ([[0, 1, 2, math.inf, 8]], "targets of image 1 must be finite"),
        ([[CLASSES, 1, 2, 5, 8]], "class ids of image 1 must be integers from 0 to 3, got 4"),
        ([[-1, 1, 2, 5, 8]], "class ids of image 1 must be integers from 0 to 3, got -1"),
        ([[1.5, 1, 2, 5, 8]], "class ids of image 1 must be integers from 0 to 3, got 1.5"),
        ([[1, 2, 5, 8]], r"targets of image 1 must be \[K, 5\], got \[1, 4\]"),
    ],
)
def test_bad_targets(rows, message):
    targets, raw = scene()
    with pytest.raises(ValueError, match=message):
        YOLOXLoss(CLASSES)(raw, [targets[0], torch.tensor(rows, dtype=torch.float64), targets[2]])


def test_bad_arguments():
    targets, raw = scene()
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        YOLOXLoss(0)
    with pytest.raises(ValueError, match="iou_kind must be one of"):
        YOLOXLoss(CLASSES, iou_kind="iou3")
    with pytest.raises(ValueError, match="one tensor per image, of 3 images, got 2"):
        YOLOXLoss(CLASSES)(raw, targets[:2])
    with pytest.raises(ValueError, match=r"raw must be \[N, 10, H, W\], got \[3, 9, 12, 12\]"):
        YOLOXLoss(CLASSES + 1)(raw, targets)
    with pytest.raises(ValueError, match="a level for each of the strides"):
        YOLOXLoss(CLASSES, strides=(8, 16))(raw, targets)
