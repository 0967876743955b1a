"""Targets of pose networks, drawn by hand, and their loss, one joint at a time."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from cnnkernels.detection.heatmap_loss import HeatmapLoss, gaussian_heatmaps

SIZE = (64, 48)


def test_target_of_the_nearest_pixel():
    """As drawn by hand: 13 x 13 pixels of exp(-d^2 / 8), also where they reach over the border."""
    points = torch.tensor([[[20.4, 30.5], [0.6, 61.0]]])
    targets, weights = gaussian_heatmaps(points, torch.ones(1, 2), SIZE)
    expected = np.zeros((2, *SIZE))
    for k, (cx, cy) in enumerate(((20, 31), (1, 61))):
        for y in range(max(cy - 6, 0), min(cy + 7, SIZE[0])):
            for x in range(max(cx - 6, 0), min(cx + 7, SIZE[1])):
                expected[k, y, x] = math.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 8)
    torch.testing.assert_close(targets[0].double(), torch.tensor(expected), rtol=1e-6, atol=1e-7)
    assert weights.tolist() == [[1, 1]]


def test_target_of_the_key_point_itself():
    targets, _ = gaussian_heatmaps(torch.tensor([[[20.4, 30.5]]]), torch.ones(1, 1), SIZE, 3.0, rounded=False)
    assert targets[0, 0, 31, 21].item() == pytest.approx(math.exp(-(0.6**2 + 0.5**2) / 18))
    assert targets[0, 0, 60, 40].item() == pytest.approx(math.exp(-(19.6**2 + 29.5**2) / 18), abs=1e-30)


@pytest.mark.parametrize("rounded", [True, False])
def test_key_points_that_are_not_learnt(rounded):
    """Invisible; just beyond 3 sigma; no number.  One just within counts; a visibility is the weight."""
    points = torch.tensor([[[5.0, 5], [-7, 5], [5, 70], [math.nan, 5], [5, math.inf], [-6, 5], [5, 5], [1e30, 5]]])
    visible = torch.tensor([[0.0, 1, 1, 1, 1, 1, 0.75, 1]])
    targets, weights = gaussian_heatmaps(points, visible, SIZE, rounded=rounded)
    assert weights.tolist() == [[0, 0, 0, 0, 0, 1, 0.75, 0]]
    assert targets.isfinite().all()
    assert targets.flatten(2).any(2).tolist() == [[False] * 5 + [True, True, False]]


def test_no_targets():
    targets, weights = gaussian_heatmaps(torch.zeros(0, 17, 2), torch.zeros(0, 17), SIZE)
    assert (targets.shape, weights.shape) == ((0, 17, *SIZE), (0, 17))
    maps = torch.zeros(0, 17, *SIZE, requires_grad=True)
    loss = HeatmapLoss()(maps, targets, weights)
    loss.backward()
    assert loss.item() == 0


def test_loss_as_the_authors_one_joint_at_a_time():
    generator = torch.Generator().manual_seed(0)
    heatmaps, targets = torch.rand(2, 3, 5, 8, 6, generator=generator, dtype=torch.float64)
    weights = torch.tensor([[1.0, 0, 1, 0.5, 1], [0, 0, 1, 1, 1], [1, 1, 1, 1, 0]], dtype=torch.float64)
    mse, expected = nn.MSELoss(), 0
    for k in range(5):
        w = weights[:, k : k + 1]
        expected += 0.5 * mse(heatmaps[:, k].flatten(1) * w, targets[:, k].flatten(1) * w) / 5
    torch.testing.assert_close(HeatmapLoss()(heatmaps, targets, weights), expected)
    unweighted = HeatmapLoss()(heatmaps, targets)
    torch.testing.assert_close(unweighted, 0.5 * mse(heatmaps, targets))
    stacks = HeatmapLoss()([heatmaps, targets, heatmaps], targets, weights)
    torch.testing.assert_close(stacks, 2 * expected)


def test_loss_of_halves_is_computed_in_float32():
    heatmaps, targets = torch.full((1, 1, 64, 64), 4.0, dtype=torch.float16), torch.zeros(1, 1, 64, 64)
    loss = HeatmapLoss()(heatmaps, targets)  # the sum of squares, 65536, is infinite in float16
    assert (loss.dtype, loss.item()) == (torch.float32, 8)


@pytest.mark.parametrize(
    ("heatmaps", "targets", "weights"),
    [((1, 2, 3, 4), (1, 2, 4, 3), None), ((1, 2, 3, 4), (1, 2, 3, 4), (1, 3)), ((2, 3, 4), (2, 3, 4), None)],
)
def test_bad_loss(heatmaps, targets, weights):
    with pytest.raises(ValueError, match="HeatmapLoss"):
        HeatmapLoss()(torch.zeros(heatmaps), torch.zeros(targets), None if weights is None else torch.zeros(weights))


def test_loss_of_no_stacks_and_bad_targets():
    with pytest.raises(ValueError, match="HeatmapLoss"):
        HeatmapLoss()([], torch.zeros(1, 2, 3, 4))
    with pytest.raises(ValueError, match=r"\[N, K, 2\]"):
        gaussian_heatmaps(torch.zeros(1, 2), torch.zeros(1, 2), SIZE)
    with pytest.raises(ValueError, match="above 0"):
        gaussian_heatmaps(torch.zeros(1, 2, 2), torch.zeros(1, 2), SIZE, sigma=0)
