"""Multi positives: 3 x 3 cells around an object's centre, on the level that its size belongs to."""

from __future__ import annotations

import pytest
import torch

from cnnkernels.detection.multi_positives import MultiPositives
from cnnkernels.detection.yolox_loss import YOLOXLoss

from . import yolox_scenes
from .test_simota import iou, prepared

SIZE, CLASSES = 512, 2


def cells_of(boxes, assigner=None):
    """{(stride, row, column): object} in an image of 512 pixels."""
    targets = [torch.tensor([[0, *box] for box in boxes], dtype=torch.float64).view(-1, 5)]
    torch.manual_seed(0)
    raw = [torch.randn(1, 5 + CLASSES, SIZE // s, SIZE // s, dtype=torch.float64) for s in yolox_scenes.STRIDES]
    predictions, padded = prepared(targets, raw, CLASSES)
    matches = (assigner or MultiPositives())(predictions, padded)
    found = predictions.boxes_of(matches.image, matches.candidate)
    for box, target, overlap in zip(found.tolist(), matches.target.tolist(), matches.overlap.tolist(), strict=True):
        assert overlap == pytest.approx(iou(box, boxes[target]))
    places = torch.cat((predictions.strides, predictions.corners.flip(1)), 1)[matches.candidate].int().tolist()
    return {tuple(place): target for place, target in zip(places, matches.target.tolist(), strict=True)}


def block(stride, row, column, target=0):
    return {(stride, y, x): target for y in range(row - 1, row + 2) for x in range(column - 1, column + 2)}


def test_the_level_follows_from_the_longer_side():
    for width, stride in ((20, 8), (128, 8), (129, 16), (256, 16), (257, 32), (500, 32)):
        for box in ((256 - width / 2, 252, 256 + width / 2, 261), (253, 255 - width / 2, 258, 255 + width / 2)):
            cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            assert cells_of([box]) == block(stride, int(cy / stride), int(cx / stride))


def test_where_the_picture_ends():
    assert cells_of([(0, 500, 10, 512)]) == {(8, y, x): 0 for y in (62, 63) for x in (0, 1)}


def test_the_smaller_object_has_the_cell():
    large, small = (100, 100, 160, 160), (126, 122, 146, 138)  # centres 130, 130 and 136, 130
    wanted = {**block(8, 16, 16, 0), **block(8, 16, 17, 1)}
    assert cells_of([large, small]) == wanted
    assert cells_of([small, large]) == {place: 1 - target for place, target in wanted.items()}


def test_one_cell_only():
    assert cells_of([(100, 100, 160, 160)], MultiPositives(around=0)) == {(8, 16, 16): 0}


def test_objects_without_area_or_outside_have_none():
    assert cells_of([(-30, -30, -2, -2), (50, 50, 50, 90)]) == {}
    assert cells_of([]) == {}


def test_as_the_assigner_of_the_loss():
    torch.manual_seed(1)
    targets = yolox_scenes.targets(2, 96, CLASSES)
    raw = yolox_scenes.outputs(targets, 96, CLASSES)
    parts = YOLOXLoss(CLASSES, assigner=MultiPositives())(raw, targets)
    assert parts["loss"].isfinite() and parts["box"] > 0
    assert parts["loss"] != YOLOXLoss(CLASSES)(raw, targets)["loss"]
