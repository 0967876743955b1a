"""AnchorLoss against its definition in plain loops over objects, anchors and cells, in float64: values and gradients."""

from __future__ import annotations

import math

import pytest
import torch

from cnnkernels.detection.anchor_assignment import BestAnchor, SideRatio
from cnnkernels.detection.anchor_level import AnchorLevel
from cnnkernels.detection.anchor_loss import AnchorLoss, Weights
from cnnkernels.detection.padded_targets import pad_targets
from cnnkernels.models.darknet_detector import decode_level

from . import yolox_scenes

STRIDES, SIZE, CLASSES = (8, 16, 32), 64, 3
ANCHORS = [[(10, 13), (16, 30), (33, 23)], [(30, 61), (62, 45), (59, 19)], [(40, 90), (16, 48), (60, 50)]]
SCALES = (1.2, 1.1, 1.05)


def scene(seed=0, dtype=torch.float64, size=SIZE, images=2):
    torch.manual_seed(seed)
    targets = yolox_scenes.targets(images, size, CLASSES, dtype=dtype)
    raw = [torch.randn(images, 3, size // s, size // s, 5 + CLASSES, dtype=dtype, requires_grad=True) for s in STRIDES]
    return targets, raw


# ---- the definition ---------------------------------------------------------------------------------------------------


def box_of(code, anchor, column, row, stride, scale, squared):
    s = torch.sigmoid(code[:4])
    cx = stride * (column + scale * s[0] - (scale - 1) / 2)
    cy = stride * (row + scale * s[1] - (scale - 1) / 2)
    w = anchor[0] * ((2 * s[2]) ** 2 if squared else code[2].exp())
    h = anchor[1] * ((2 * s[3]) ** 2 if squared else code[3].exp())
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def overlap(a, b, kind):
    """Of two boxes, numbers or scalars that can be differentiated."""
    largest, smallest = (lambda x, y: x if x > y else y), (lambda x, y: x if x < y else y)
    across, down = smallest(a[2], b[2]) - largest(a[0], b[0]), smallest(a[3], b[3]) - largest(a[1], b[1])
    shared = across * down if across > 0 and down > 0 else 0 * across
    joined = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    if kind == "iou":
        return shared / joined
    width, height = largest(a[2], b[2]) - smallest(a[0], b[0]), largest(a[3], b[3]) - smallest(a[1], b[1])
    if kind == "giou":
        return shared / joined - (width * height - joined) / (width * height)
    distance = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    diou = shared / joined - distance / (width**2 + height**2)
    if kind == "diou":
        return diou
    aspects = [torch.atan(torch.as_tensor((x[2] - x[0]) / (x[3] - x[1]), dtype=torch.float64)) for x in (a, b)]
    v = 4 / math.pi**2 * (aspects[0] - aspects[1]) ** 2
    return diou - (v / (1 - shared / joined + v)).detach() * v


def binary(logit, target):
    return -(target * torch.nn.functional.logsigmoid(logit) + (1 - target) * torch.nn.functional.logsigmoid(-logit))


def by_side_ratio(box, level, limit=4.0):
    """(anchor, row, column) of an object's positives on a level: YOLOv5."""
    w, h, stride = box[2] - box[0], box[3] - box[1], STRIDES[level]
    x, y, cells = (box[0] + box[2]) / 2 / stride, (box[1] + box[3]) / 2 / stride, SIZE // stride
    for a, (aw, ah) in enumerate(ANCHORS[level]):
        if max(w / aw, aw / w, h / ah, ah / h) < limit:
            column, row = int(x), int(y)
            yield a, row, column
            left_or_right = column - 1 if x - column < 0.5 else column + 1
            above_or_below = row - 1 if y - row < 0.5 else row + 1
            if 0 <= left_or_right < cells:
                yield a, row, left_or_right
            if 0 <= above_or_below < cells:
                yield a, above_or_below, column


def by_best_anchor(box, level, also=1.0):
    """(anchor, row, column) of an object's positives on a level: Darknet."""
    w, h = box[2] - box[0], box[3] - box[1]

    def fit(anchor):
        shared = min(w, anchor[0]) * min(h, anchor[1])
        return shared / (w * h + anchor[0] * anchor[1] - shared)

    best = max(fit(anchor) for anchors in ANCHORS for anchor in anchors)
    for a, anchor in enumerate(ANCHORS[level]):
        if fit(anchor) == best or fit(anchor) > also:
            cell = 2 * STRIDES[level]
            yield a, int((box[1] + box[3]) / cell), int((box[0] + box[2]) / cell)


def definition(raw, targets, positives, scales, squared, kind, smoothing, mean, overlap_as_objectness, ignore=None):
    """box, obj, cls without weights, as lists with a number for each level."""
    box_terms, obj_terms, cls_terms = [], [], []
    for level, logits in enumerate(raw):
        box, obj, cls, wanted = [], [], [], {}

        def decoded(i, a, row, column, level=level, logits=logits):
            place = (ANCHORS[level][a], column, row, STRIDES[level], scales[level], squared)
            return box_of(logits[i, a, row, column], *place)

        for i, objects in enumerate(targets):
            for label, *truth in objects.tolist():
                for a, row, column in positives(truth, level):
                    value = overlap(decoded(i, a, row, column), truth, kind)
                    box.append(1 - value)
                    here = max(float(value.detach()), 0) if overlap_as_objectness else 1.0
                    wanted[i, a, row, column] = max(wanted.get((i, a, row, column), 0), here)
                    for c in range(CLASSES):
                        yes = 1 - smoothing / 2 if c == label else smoothing / 2
                        cls.append(binary(logits[i, a, row, column, 5 + c], yes))
        for place in torch.cartesian_prod(*(torch.arange(n) for n in logits.shape[:4])).tolist():
            if tuple(place) not in wanted and ignore is not None:
                found = decoded(*place)
                if any(overlap(found, truth, "iou") > ignore for _, *truth in targets[place[0]].tolist()):
                    continue
            obj.append(binary(logits[(*place, 4)], wanted.get(tuple(place), 0.0)))
        for term, values in ((box_terms, box), (obj_terms, obj), (cls_terms, cls)):
            total = sum(values, torch.zeros((), dtype=torch.float64))
            term.append(total / max(len(values), 1) if mean else total)
    return box_terms, obj_terms, cls_terms


def assert_equals(parts, wanted, raw):
    assert list(parts) == ["loss", "box", "obj", "cls"]
    wanted = dict(zip(parts, (sum(wanted), *wanted), strict=True))
    for name, value in parts.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-9, atol=1e-12)
        assert value > 0
    found, expected = (torch.autograd.grad(losses["loss"], raw) for losses in (parts, wanted))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-11)


# ---- tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "smoothing"), [("ciou", 0.0), ("ciou", 0.1), ("giou", 0.0), ("diou", 0.0), ("iou", 0.0)]
)
def test_yolov5(kind, smoothing):
    targets, raw = scene(1)
    criterion = AnchorLoss.yolov5(CLASSES, ANCHORS, STRIDES, SIZE, kind, smoothing)
    box, obj, cls = definition(raw, targets, by_side_ratio, (2, 2, 2), True, kind, smoothing, True, True)
    images = len(targets)
    box, cls = 0.05 * images * sum(box), 0.5 * CLASSES / 80 * images * sum(cls)
    obj = (SIZE / 640) ** 2 * images * (4.0 * obj[0] + 1.0 * obj[1] + 0.4 * obj[2])
    assert_equals(criterion(raw, targets), (box, obj, cls), raw)


@pytest.mark.parametrize(("ignore", "also", "smoothing"), [(0.7, 1.0, 0.0), (0.5, 0.213, 0.1)])
@pytest.mark.parametrize("kind", ["ciou", "giou"])
def test_darknet(kind, ignore, also, smoothing):
    targets, raw = scene(2)
    copies_of_objects(raw, targets)
    criterion = AnchorLoss.darknet(CLASSES, ANCHORS, STRIDES, SCALES, BestAnchor(ignore, also), kind, smoothing)

    def positives(box, level):
        return by_best_anchor(box, level, also)

    terms = definition(raw, targets, positives, SCALES, False, kind, smoothing, False, False, ignore)
    without = definition(raw, targets, positives, SCALES, False, kind, smoothing, False, False)
    assert sum(terms[1]) < sum(without[1])  # else nothing was ignored
    box, obj, cls = (weight * sum(term) / len(targets) for weight, term in zip((0.07, 1, 1), terms, strict=True))
    assert_equals(criterion(raw, targets), (box, obj, cls), raw)


def copies_of_objects(raw, targets):
    """In the cell of an image's first object every anchor predicts nearly its box: one is a positive, the others are not."""
    with torch.no_grad():
        for i, rows in enumerate(targets):
            centre, sides = (rows[0, 1:3] + rows[0, 3:]) / 2, rows[0, 3:] - rows[0, 1:3]
            for logits, anchors, stride, scale in zip(raw, ANCHORS, STRIDES, SCALES, strict=True):
                column, row = (centre / stride).long().tolist()
                inside = (centre / stride - torch.tensor([column, row]) + (scale - 1) / 2) / scale
                logits[i, :, row, column, :2] = inside.logit()
                logits[i, :, row, column, 2:4] = (1.05 * sides / torch.tensor(anchors)).log()


def test_fine_and_coarse_levels_may_come_in_any_order():
    targets, raw = scene(3)
    one = AnchorLoss.yolov5(CLASSES, ANCHORS, STRIDES)(raw, targets)
    other = AnchorLoss.yolov5(CLASSES, ANCHORS[::-1], STRIDES[::-1])(raw[::-1], targets)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name])


def test_boxes_are_those_of_the_networks_decoding():
    _, raw = scene()
    for squared, scale in ((True, 2.0), (False, 1.1)):
        for level, anchors, stride in zip(raw, ANCHORS, STRIDES, strict=True):
            mine = AnchorLevel.of(level, torch.tensor(anchors), stride, scale, squared).boxes().flatten(1, 3)
            theirs = decode_level(level, anchors, stride, scale, squared)
            torch.testing.assert_close((mine[..., :2] + mine[..., 2:]) / 2, theirs[..., :2])
            torch.testing.assert_close(mine[..., 2:] - mine[..., :2], theirs[..., 2:4])


def positives_of(assigner, box, anchor=(20, 20)):
    """{(row, column)} on a level of 8 x 8 cells, 8 pixels wide, with one anchor."""
    targets = [torch.tensor([[0, *box]])]
    level = AnchorLevel.of(torch.zeros(1, 1, 8, 8, 6), torch.tensor([anchor], dtype=torch.float32), 8)
    (assigned,) = assigner([level], pad_targets("test", targets, 1, 1, (64, 64), level.codes))
    return sorted(zip(assigned.cells.row.tolist(), assigned.cells.column.tolist(), strict=True))


@pytest.mark.parametrize(
    ("centre", "cells"),
    [
        ((18, 30), [(3, 1), (3, 2), (4, 2)]),  # 2.25, 3.75: left, below
        ((20, 28), [(3, 2)]),  # 2.5, 3.5: the middle of a cell has no nearest neighbour
        ((2, 62), [(7, 0)]),  # 0.25, 7.75: the picture ends there
        ((6, 58), [(6, 0), (7, 0), (7, 1)]),  # 0.75, 7.25: right, above
    ],
)
def test_neighbouring_cells(centre, cells):
    x, y = centre
    box = (x - 10, y - 10, x + 10, y + 10)
    assert positives_of(SideRatio(), box) == cells
    assert positives_of(SideRatio(neighbours=False), box) == [(y // 8, x // 8)]


def test_side_ratio_is_of_both_sides_and_below_the_limit():
    assert positives_of(SideRatio(), (0, 0, 60, 20)) != []
    assert positives_of(SideRatio(), (0, 0, 20, 4.9)) == []
    assert positives_of(SideRatio(4.0), (0, 0, 20, 5)) == []  # exactly 4
    assert positives_of(SideRatio(4.1), (0, 0, 20, 5)) != []


def test_a_centre_outside_the_picture_belongs_to_the_nearest_cell():
    assert positives_of(SideRatio(neighbours=False), (-20, 50, 4, 90)) == [(7, 0)]
    assert positives_of(BestAnchor(), (-20, 50, 4, 90)) == [(7, 0)]


def test_objects_that_are_left_out():
    targets, raw = scene(5)
    odd = torch.tensor([[0, -30, -30, -2, -2], [1, 300, 40, 340, 80], [2, 50, 50, 50, 90], [1, 60, 60, 40, 90]])
    with_odd = [torch.cat((odd.to(rows.dtype), rows)) for rows in targets]
    for criterion in both():
        for name, value in criterion(raw, targets).items():
            torch.testing.assert_close(criterion(raw, with_odd)[name], value)


def both():
    return AnchorLoss.yolov5(CLASSES, ANCHORS, STRIDES, SIZE), AnchorLoss.darknet(CLASSES, ANCHORS, STRIDES, SCALES)


@pytest.mark.parametrize("which", [0, 1])
def test_no_objects(which):
    """Only the objectness learns, and it learns that nothing is there."""
    _, raw = scene(dtype=torch.float32)
    parts = both()[which](raw, [torch.zeros(0, 5)] * 2)
    assert parts["box"] == parts["cls"] == 0
    assert parts["loss"].isfinite() and parts["obj"] > 0
    for gradient in torch.autograd.grad(parts["loss"], raw):
        assert (gradient[..., 4] > 0).all()
        assert (gradient[..., :4] == 0).all() and (gradient[..., 5:] == 0).all()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_outputs_under_autocast(dtype, which):
    targets, raw = scene(dtype=torch.float32)
    half = [level.detach().to(dtype).requires_grad_() for level in raw]
    single = [level.detach().float().requires_grad_() for level in half]
    with torch.autocast("cpu", dtype=dtype):
        parts = both()[which](half, targets)
    wanted = both()[which](single, targets)
    assert all(value.dtype is torch.float32 for value in parts.values())
    assert parts["loss"] == wanted["loss"]
    found, expected = torch.autograd.grad(parts["loss"], half), torch.autograd.grad(wanted["loss"], single)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs.to(dtype))


def test_a_single_class_has_no_class_loss():
    raw = [torch.randn(1, 3, SIZE // s, SIZE // s, 6) for s in STRIDES]
    parts = AnchorLoss.yolov5(1, ANCHORS, STRIDES)(raw, [torch.tensor([[0, 8.0, 8, 40, 40]])])
    assert parts["cls"] == 0 and parts["box"] > 0


def test_bad_targets():
    targets, raw = scene()
    for criterion in both():
        for value, message in (
            (math.nan, "targets of image 1 must be finite"),
            (CLASSES, "class ids of image 1 must be"),
        ):
            bad = targets[1].clone()
            bad[0, 0] = value
            with pytest.raises(ValueError, match=f"AnchorLoss: {message}"):
                criterion(raw, [targets[0], bad])


def test_bad_arguments():
    targets, raw = scene()
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        AnchorLoss.yolov5(0, ANCHORS, STRIDES)
    with pytest.raises(ValueError, match="kind must be one of iou, giou, diou, ciou"):
        AnchorLoss.yolov5(CLASSES, ANCHORS, STRIDES, box_kind="l1")
    with pytest.raises(ValueError, match="label_smoothing must be from 0 to 1"):
        AnchorLoss.yolov5(CLASSES, ANCHORS, STRIDES, label_smoothing=1.5)
    with pytest.raises(ValueError, match="must be one for each of 3 strides"):
        AnchorLoss(CLASSES, ANCHORS[:2], STRIDES, SideRatio())
    with pytest.raises(ValueError, match="must be one for each of 3 strides"):
        AnchorLoss(CLASSES, ANCHORS, STRIDES, SideRatio(), Weights(balance=(1.0,)))
    with pytest.raises(ValueError, match=r"raw must be \[N, 3, H, W, 9\] for stride 8"):
        AnchorLoss.yolov5(CLASSES + 1, ANCHORS, STRIDES)(raw, targets)
    with pytest.raises(ValueError, match="one level for each of"):
        AnchorLoss.yolov5(CLASSES, ANCHORS, STRIDES)(raw[:2], targets)
