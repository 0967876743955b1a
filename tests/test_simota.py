"""SimOTA against the package yolox, and against its definition in plain loops; the centre's cells as positives."""

from __future__ import annotations

import importlib
import math

import pytest
import torch

from cnnkernels.detection.anchor_free import AnchorFree
from cnnkernels.detection.padded_targets import pad_targets
from cnnkernels.detection.simota import SimOTA

from . import oracles, yolox_scenes

RELEASED = SimOTA(2.5, boxes_too=True, outside=1e5)
SIZE, CLASSES = 128, 5


def scene(seed, most=8, dtype=torch.float64):
    torch.manual_seed(seed)
    targets = yolox_scenes.targets(3, SIZE, CLASSES, most, dtype)
    return targets, yolox_scenes.outputs(targets, SIZE, CLASSES, dtype)


def prepared(targets, raw, num_classes=CLASSES):
    predictions = AnchorFree.of("test", raw, yolox_scenes.STRIDES, num_classes)
    return predictions, pad_targets("test", targets, num_classes, len(targets), predictions.size, predictions.codes)


def assign(assigner, targets, raw):
    matches = assigner(*prepared(targets, raw))
    found = zip(matches.image.tolist(), matches.candidate.tolist(), matches.target.tolist(), strict=True)
    return dict(zip(found, matches.overlap.tolist(), strict=True))


def assign_with_yolox(targets, raw):
    """{(image, candidate, object): IoU} of YOLOXHead.get_assignments."""
    oracles.package("yolox")
    head = importlib.import_module("yolox.models.yolo_head").YOLOXHead(CLASSES)
    outputs, grids, strides = [], [], []
    for k, (level, stride) in enumerate(zip(raw, yolox_scenes.STRIDES, strict=True)):
        rows, grid = head.get_output_and_grid(level.clone(), k, stride, level.type())
        outputs.append(rows)
        grids.append(grid)
        strides.append(torch.full((1, grid.shape[1]), float(stride), dtype=level.dtype))
    rows, grid, stride = torch.cat(outputs, 1), torch.cat(grids, 1), torch.cat(strides, 1)
    labels, found = yolox_scenes.as_yolox(targets, raw[0].dtype), {}
    for i, image in enumerate(targets):
        if not len(image):
            continue
        boxes, classes = labels[i, : len(image), 1:], labels[i, : len(image), 0]
        _, foreground, ious, objects, _ = head.get_assignments(
            *(i, len(image), rows.shape[1], boxes, classes, rows[i, :, :4], stride, grid[..., 0], grid[..., 1]),
            *(rows[..., 5:], rows[..., :4], rows[..., 4:5], labels, None),
        )
        candidates = foreground.nonzero()[:, 0].tolist()
        for candidate, target, iou in zip(candidates, objects.tolist(), ious.tolist(), strict=True):
            found[i, candidate, target] = iou
    return found


def assign_in_loops(targets, raw, radius=1.5, outside=1e6):
    """The definition, one number at a time, in float64."""
    found = {}
    for i, objects in enumerate(targets):
        cells = []
        for level, stride in zip(raw, yolox_scenes.STRIDES, strict=True):
            for y in range(level.shape[2]):
                for x in range(level.shape[3]):
                    cells.append((x, y, stride, level[i, :, y, x].double().tolist()))
        rows = objects.double().tolist()
        near = [[centre_distance(row, cell) < radius for cell in cells] for row in rows]
        usable = [a for a in range(len(cells)) if any(near[t][a] for t in range(len(rows)))]
        if not usable:
            continue
        ious = [{a: iou(row[1:], box_of(cells[a])) for a in usable} for row in rows]
        costs = [
            {
                a: class_cost(row, cells[a]) - 3 * math.log(ious[t][a] + 1e-8) + outside * (not near[t][a])
                for a in usable
            }
            for t, row in enumerate(rows)
        ]
        wanted = {}
        for t in range(len(rows)):
            k = max(1, int(sum(sorted(ious[t].values())[-10:])))
            for a in sorted(usable, key=costs[t].get)[:k]:
                wanted.setdefault(a, []).append(t)
        for a, owners in wanted.items():
            t = owners[0] if len(owners) == 1 else min(range(len(rows)), key=lambda t: costs[t][a])
            found[i, a, t] = ious[t][a]
    return found


def centre_distance(row, cell):
    x, y, stride, _ = cell
    across = abs((row[1] + row[3]) / 2 - (x + 0.5) * stride)
    down = abs((row[2] + row[4]) / 2 - (y + 0.5) * stride)
    return max(across, down) / stride


def box_of(cell):
    x, y, stride, code = cell
    cx, cy, w, h = (
        (x + code[0]) * stride,
        (y + code[1]) * stride,
        math.exp(code[2]) * stride,
        math.exp(code[3]) * stride,
    )
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def iou(a, b):
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(across, 0) * max(down, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def class_cost(row, cell):
    objectness, *classes = cell[3][4:]
    scores = [math.sqrt(1 / (1 + math.exp(-c)) / (1 + math.exp(-objectness))) for c in classes]
    return -sum(math.log(p if c == row[0] else 1 - p) for c, p in enumerate(scores))


def assert_same(found, wanted):
    assert wanted
    assert found.keys() == wanted.keys()
    assert all(abs(found[key] - wanted[key]) < 1e-6 for key in wanted)


@pytest.mark.parametrize("seed", range(8))
def test_the_releases_setting_is_the_packages(seed):
    targets, raw = scene(seed)
    assert_same(assign(RELEASED, targets, raw), assign_with_yolox(targets, raw))


def test_crowded_images_and_one_without_objects():
    targets, raw = scene(20, most=60)
    targets[1] = targets[1][:0]
    found = assign(RELEASED, targets, raw)
    assert_same(found, assign_with_yolox(targets, raw))
    assert {image for image, _, _ in found} == {0, 2}


def test_predictions_that_fit_nothing():
    """Before training the sum of IoUs is below 1: one prediction for each object."""
    targets, raw = scene(30)
    raw = [torch.randn_like(level) - 3 for level in raw]
    assert_same(assign(RELEASED, targets, raw), assign_with_yolox(targets, raw))


@pytest.mark.parametrize("seed", range(4))
def test_the_repositorys_setting_is_the_definition(seed):
    targets, raw = scene(seed)
    found, wanted = assign(SimOTA(), targets, raw), assign_in_loops(targets, raw)
    assert_same(found, wanted)
    objects = [(image, target) for image, _, target in found]
    assert max(objects.count(pair) for pair in objects) > 1  # else k was never above 1
    assert found != assign(RELEASED, targets, raw)


def test_float32_takes_the_same_decisions():
    targets, raw = scene(3, dtype=torch.float32)
    assert_same(assign(SimOTA(), targets, raw), assign_in_loops(targets, raw))


def test_a_prediction_stands_for_one_object_at_most():
    targets, raw = scene(5, most=60)
    pairs = [(image, candidate) for image, candidate, _ in assign(SimOTA(), targets, raw)]
    assert len(pairs) == len(set(pairs))
    assert pairs == sorted(pairs)


def test_objects_without_candidates():
    """Outside the picture or without area: nothing is assigned to them, and the others get what they got without them."""
    targets, raw = scene(7)
    odd = torch.tensor([[0, -30, -30, -2, -2], [1, 300, 40, 340, 80], [2, 50, 50, 50, 90], [3, 60, 60, 40, 90]])
    with_odd = [torch.cat((rows, odd.to(rows.dtype))) for rows in targets]
    assert_same(assign(SimOTA(), with_odd, raw), assign(SimOTA(), targets, raw))
    assert assign(SimOTA(), [odd.double()] * 3, raw) == {}
    assert assign(SimOTA(), [odd[:0].double()] * 3, raw) == {}
