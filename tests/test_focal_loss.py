"""Focal loss against torchvision's, its definition, and its gradient against finite differences."""

from __future__ import annotations

import importlib
import math

import pytest
import torch

from cnnkernels.detection.focal_loss import focal_loss, sigmoid_focal_loss

from . import oracles


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.25, 1.5), (0.7, 0.5), (-1, 2.0), (0.5, 0.0)])
def test_equals_torchvision(alpha, gamma):
    oracles.package("torchvision")
    theirs = importlib.import_module("torchvision.ops").sigmoid_focal_loss
    torch.manual_seed(0)
    logits = (4 * torch.randn(3, 50, 7, dtype=torch.float64)).requires_grad_()
    targets = (torch.rand(3, 50, 7) < 0.1).double()
    found, wanted = (f(logits, targets, alpha=alpha, gamma=gamma) for f in (sigmoid_focal_loss, theirs))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
    gradients = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-13)


def test_the_formula_with_smoothing():
    logit, alpha, gamma, smoothing = 0.8, 0.25, 1.5, 0.1
    score = 1 / (1 + math.exp(-logit))
    for target, p_t, weight in ((1.0, score, alpha), (0.0, 1 - score, 1 - alpha)):
        smoothed = target * (1 - smoothing) + smoothing / 2
        entropy = -smoothed * math.log(score) - (1 - smoothed) * math.log(1 - score)
        found = sigmoid_focal_loss(
            torch.tensor([logit], dtype=torch.float64), torch.tensor([target]).double(), alpha, gamma, smoothing
        )
        assert found.item() == pytest.approx(weight * (1 - p_t) ** gamma * entropy, rel=1e-12)


def test_gradient():
    torch.manual_seed(1)
    logits = torch.randn(40, dtype=torch.float64, requires_grad=True)
    targets = (torch.rand(40) < 0.5).double()
    assert torch.autograd.gradcheck(
        lambda x: sigmoid_focal_loss(x, targets, gamma=1.5, label_smoothing=0.05), (logits,)
    )


def test_certain_answers_are_finite():
    logits = torch.tensor([-200.0, -200.0, 200.0, 200.0], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([0.0, 1.0, 0.0, 1.0]), gamma=1.5)
    assert loss.tolist() == pytest.approx([0, 0.25 * 200, 0.75 * 200, 0])
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.tolist() == pytest.approx([0, -0.25, 0.75, 0])


def test_of_scores():
    torch.manual_seed(2)
    logits = torch.randn(40, dtype=torch.float64, requires_grad=True)
    targets = (torch.rand(40) < 0.5).double()
    losses = focal_loss(logits.sigmoid(), targets, 0.3, 1.5), sigmoid_focal_loss(logits, targets, 0.3, 1.5)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), logits)[0] for loss in losses))
