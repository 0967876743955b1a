"""Self-adversarial training: what moves, by how much, to what end; and what stays as it was."""

import copy

import pytest
import torch
from torch import nn

from cnnkernels.detection.augment import self_adversarial
from cnnkernels.nn import CmBatchNorm2d, ConvBNAct

OBJECT = torch.tensor([[0.0, 2.0, 2.0, 9.0, 9.0]])


class Detector(nn.Module):
    """One logit per pixel: is there an object."""

    def __init__(self):
        super().__init__()
        self.stem = ConvBNAct(3, 8, 3, act="mish")
        self.cross = CmBatchNorm2d(8, mini_batches=2)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        return self.head(self.cross(self.stem(x)))[:, 0]


def loss(logits, targets):
    """Of objectness; every target's box is to be marked."""
    wanted = torch.zeros_like(logits)
    for n, target in enumerate(targets):
        for _, x1, y1, x2, y2 in target.int().tolist():
            wanted[n, y1:y2, x1:x2] = 1
    return nn.functional.binary_cross_entropy_with_logits(logits, wanted)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Detector().train()


def images(n=2, seed=1):
    return torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def test_one_step_down_the_loss_without_objects(model):
    x, targets = images(), [OBJECT, OBJECT]
    twin = copy.deepcopy(model)
    moved = self_adversarial(model, loss, x, targets, epsilon=0.02)
    leaf = x.clone().requires_grad_()
    before = loss(twin(leaf), [OBJECT[:0]] * 2)
    before.backward()
    torch.testing.assert_close(moved, x - 0.02 * leaf.grad.sign())
    assert not moved.requires_grad and moved is not x
    twin = copy.deepcopy(model)
    assert loss(twin(moved), [OBJECT[:0]] * 2) < before
    assert twin(moved).sigmoid().mean() < copy.deepcopy(model)(x).sigmoid().mean()


def test_nothing_else_changes(model):
    x = images(seed=2)
    loss(model(x), [OBJECT] * 2).backward()  # gradients to keep, and the first mini-batch of CmBN's two
    saved = model.cross.accumulated
    before = copy.deepcopy(model.state_dict())
    gradients = [p.grad.clone() for p in model.parameters()]
    kept = x.clone()
    self_adversarial(model, loss, x, [OBJECT] * 2)
    assert torch.equal(x, kept) and not x.requires_grad
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert model.cross.accumulated is saved and model.training


def test_nothing_changes_where_the_loss_fails(model):
    before = copy.deepcopy(model.state_dict())

    def broken(logits, targets):
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        self_adversarial(model, broken, images(), [OBJECT] * 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.cross.accumulated is None


def test_pictures_without_objects_stay(model):
    x = images(3)
    moved = self_adversarial(model, loss, x, [OBJECT, OBJECT[:0], OBJECT], epsilon=0.05)
    assert torch.equal(moved[1], x[1])
    assert all(((moved[k] - x[k]).abs() > 0.04).float().mean() > 0.9 for k in (0, 2))


def test_bounds_dictionaries_and_no_grad(model):
    x = images()
    expected = self_adversarial(model, loss, x, [OBJECT] * 2, epsilon=0.4)
    with torch.no_grad():
        bounded = self_adversarial(model, lambda *a: {"loss": loss(*a), "obj": None}, x, [OBJECT] * 2, 0.4, (0, 1))
    assert expected.min() < 0 and expected.max() > 1
    assert torch.equal(bounded, expected.clamp(0, 1))


def test_a_detector_of_the_package():
    from cnnkernels.detection.yolox_loss import YOLOXLoss
    from cnnkernels.models import create_model

    torch.manual_seed(0)
    model = create_model("yolox_nano", num_classes=2).train()
    before = copy.deepcopy(model.state_dict())
    criterion = YOLOXLoss(2, model.strides)
    x = torch.rand(2, 3, 64, 64) * 255
    target = torch.tensor([[1.0, 5.0, 5.0, 40.0, 50.0]])
    moved = self_adversarial(model, criterion, x, [target, target], epsilon=2.0, bounds=(0, 255))
    assert 0.5 < (moved - x).abs().mean() <= 2.0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    nothing = [target[:0]] * 2
    assert criterion(model(moved), nothing)["obj"] < criterion(model(x), nothing)["obj"]


@pytest.mark.parametrize(
    ("x", "targets", "epsilon", "message"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), [OBJECT] * 2, 0.1, "floating-point"),
        (torch.zeros(3, 8, 8), [OBJECT] * 3, 0.1, r"\[N, C, H, W\]"),
        (torch.zeros(2, 3, 8, 8), [OBJECT], 0.1, "as many targets"),
        (torch.zeros(1, 3, 8, 8), [OBJECT], -0.1, "epsilon must not be negative"),
        (torch.zeros(1, 3, 8, 8), [OBJECT], float("nan"), "epsilon must not be negative"),
    ],
)
def test_bad_input(model, x, targets, epsilon, message):
    with pytest.raises(ValueError, match=message):
        self_adversarial(model, loss, x, targets, epsilon)
