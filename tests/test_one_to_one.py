"""One prediction for each object: the assignment problem against brute force, POTO against its definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from cnnkernels.detection.linear_assignment import assign_rows
from cnnkernels.detection.one_to_one import OneToOne

from . import yolox_scenes
from .test_simota import CLASSES, SIZE, box_of, iou, prepared


def total(cost, columns):
    assert len(set(columns)) == len(cost)
    return cost[np.arange(len(cost)), columns].sum()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 6), (3, 3), (4, 4), (4, 6), (5, 7)])
@pytest.mark.parametrize("ties", [False, True])
def test_the_lowest_sum_of_costs(rows, columns, ties):
    generator = np.random.default_rng(rows * columns)
    for _ in range(20):
        cost = generator.normal(size=(rows, columns))
        cost = np.round(cost) if ties else cost
        lowest = min(total(cost, list(places)) for places in itertools.permutations(range(columns), rows))
        assert total(cost, assign_rows(cost)) == pytest.approx(lowest)


def test_every_row_wants_the_same_columns():
    """A long chain of rows that have to give way: the greedy choice costs far more."""
    n = 40
    cost = np.add.outer(np.arange(n), np.arange(n)).astype(float) ** 2
    columns = assign_rows(cost)
    assert columns.tolist() == list(range(n))[::-1]
    assert total(cost, np.arange(n)) > 1.3 * total(cost, columns)


def test_bad_costs():
    with pytest.raises(ValueError, match="at least as many columns as rows, got 3 x 2"):
        assign_rows(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="cost must be finite"):
        assign_rows(np.array([[np.nan, 1.0]]))
    assert assign_rows(np.zeros((0, 4))).tolist() == []


# ---- POTO ---------------------------------------------------------------------------------------------------------------


def scene(seed, most):
    torch.manual_seed(seed)
    targets = yolox_scenes.targets(2, SIZE, CLASSES, most)
    return targets, yolox_scenes.outputs(targets, SIZE, CLASSES)


def qualities(rows, raw, image, alpha):
    """Of every object and prediction in float64, None where the prediction may not stand for the object; and the IoUs."""
    found, overlaps = [], []
    for label, *box in rows.tolist():
        found.append([])
        overlaps.append([])
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        for level, stride in zip(raw, yolox_scenes.STRIDES, strict=True):
            scores = (level[image, 4].sigmoid() * level[image, 5 + int(label)].sigmoid()).tolist()
            codes = level[image, :4].permute(1, 2, 0).tolist()
            for y, x in itertools.product(range(level.shape[2]), range(level.shape[3])):
                px, py = (x + 0.5) * stride, (y + 0.5) * stride
                inside = box[0] < px < box[2] and box[1] < py < box[3]
                holds = max(abs(px - cx), abs(py - cy)) <= stride / 2
                overlaps[-1].append(iou(box, box_of((x, y, stride, codes[y][x]))))
                quality = scores[y][x] ** (1 - alpha) * overlaps[-1][-1] ** alpha
                found[-1].append(quality if inside or holds else None)
    return found, overlaps


@pytest.mark.parametrize("alpha", [0.8, 0.3])
@pytest.mark.parametrize(("seed", "most"), [(0, 3), (1, 8), (2, 25)])
def test_the_largest_sum_of_qualities(seed, most, alpha):
    optimize = pytest.importorskip("scipy.optimize")
    targets, raw = scene(seed, most)
    matches = OneToOne(alpha)(*prepared(targets, raw))
    for i, rows in enumerate(targets):
        quality, overlaps = qualities(rows, raw, i, alpha)
        whole = np.array([[-1e6 if q is None else q for q in row] for row in quality])
        best = whole[optimize.linear_sum_assignment(whole, maximize=True)].sum()
        mine = [
            (target, candidate, overlap)
            for image, candidate, target, overlap in zip(
                *(t.tolist() for t in (matches.image, matches.candidate, matches.target, matches.overlap)), strict=True
            )
            if image == i
        ]
        assert sorted(target for target, _, _ in mine) == list(range(len(rows)))
        assert len({candidate for _, candidate, _ in mine}) == len(rows)
        assert sum(quality[target][candidate] for target, candidate, _ in mine) == pytest.approx(best, rel=1e-9)
        for target, candidate, overlap in mine:
            assert overlap == pytest.approx(overlaps[target][candidate], rel=1e-9)


def test_not_the_greedy_choice():
    """Both objects want prediction 0 most; the first has a good second choice and gives way."""
    targets = [torch.tensor([[0, 0, 0, 24, 24], [1, 0, 0, 24, 24]], dtype=torch.float64)]
    raw = [torch.zeros(1, 5 + CLASSES, SIZE // s, SIZE // s, dtype=torch.float64) for s in yolox_scenes.STRIDES]
    predictions, padded = prepared(targets, raw)
    scores = torch.zeros(1, CLASSES, predictions.codes.shape[1], dtype=torch.float64)
    scores[0, :2, :2] = torch.tensor([[0.9, 0.8], [0.85, 0.1]])
    matches = OneToOne(alpha=0).match(scores, predictions, padded)
    assert dict(zip(matches.target.tolist(), matches.candidate.tolist(), strict=True)) == {0: 1, 1: 0}


def test_more_objects_than_cells_that_may_stand_for_them():
    """Small objects on one spot: there are four cells for six of them."""
    box = [41.0, 41.0, 43.0, 43.0]
    targets = [torch.tensor([[0, *box]] * 6, dtype=torch.float64)]
    torch.manual_seed(0)
    raw = yolox_scenes.outputs(targets, SIZE, CLASSES)
    matches = OneToOne()(*prepared(targets, raw))
    allowed = [q for q in qualities(targets[0], raw, 0, 0.8)[0][0] if q is not None]
    assert len(matches) == len(allowed) < 6
    assert len(set(matches.target.tolist())) == len(matches)


def test_objects_without_area_or_outside_have_none():
    targets, raw = scene(4, 5)
    odd = torch.tensor([[0, -30, -30, -2, -2], [1, 300, 40, 340, 80], [2, 50, 50, 50, 90]]).double()
    with_odd = OneToOne()(*prepared([torch.cat((rows, odd)) for rows in targets], raw))
    without = OneToOne()(*prepared(targets, raw))
    assert torch.equal(with_odd.candidate, without.candidate) and torch.equal(with_odd.target, without.target)
    assert len(OneToOne()(*prepared([odd] * 2, raw))) == 0
    assert len(OneToOne()(*prepared([odd[:0]] * 2, raw))) == 0
    raw[0][0] = float("nan")
    assert set(OneToOne()(*prepared(targets, raw)).image.tolist()) == {0, 1}
