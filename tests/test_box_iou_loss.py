"""The IoU losses against torchvision's, with their gradients, and where boxes are degenerate.

tests/cases/box_iou_loss.py compares every backend with the reference; here the reference meets somebody else's formula.
"""

from __future__ import annotations

import math
import re

import pytest
import torch

import cnnkernels
from cnnkernels import _ext, ops
from cnnkernels.ops.box_iou_loss import REDUCTIONS

from . import oracles
from .build_tree import ROOT
from .cases.box_iou_loss import KINDS, boxes, pair, unusual
from .test_nms import instruction_sets

NAMES = {"giou": "generalized_box_iou_loss", "diou": "distance_box_iou_loss", "ciou": "complete_box_iou_loss"}
INF, NAN = math.inf, math.nan

on_every_backend = pytest.mark.parametrize("backend", ["reference", "cpu", "cuda", "triton"], indirect=True)


def theirs(pred, target, kind, reduction="none"):
    package = oracles.package("torchvision")
    if kind == "iou":
        loss = 1 - package.ops.box_iou(pred, target).diagonal()
        return {"none": loss, "mean": loss.mean(), "sum": loss.sum()}[reduction]
    return getattr(package.ops, NAMES[kind])(pred, target, reduction=reduction)


def with_gradients(function, pred, target, kind, reduction="none"):
    """The loss and its gradients towards both boxes, losses weighted by their numbers."""
    pred, target = pred.clone().requires_grad_(), target.clone().requires_grad_()
    loss = function(pred, target, kind, reduction)
    weight = torch.linspace(-1, 2, loss.numel(), dtype=loss.dtype, device=loss.device).view_as(loss)
    return loss.detach(), *torch.autograd.grad(loss, (pred, target), weight)


# ---- torchvision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", KINDS)
@on_every_backend
def test_loss_and_gradients_are_those_of_torchvision(backend, kind, reduction):
    pred, target = (t.float() for t in pair(200))
    got = with_gradients(ops.box_iou_loss, pred, target, kind, reduction)
    want = with_gradients(theirs, pred.double(), target.double(), kind, reduction)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g.double(), w, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "eps", "tolerance"), [("giou", 0.0, 1e-12), ("diou", 0.0, 1e-12), ("ciou", 1e-7, 2e-8)]
)
def test_float64_differs_from_torchvision_by_its_eps_alone(kind, eps, tolerance):
    """Areas are 25 and more, so that 1e-7 is 4e-9 of one; what torchvision's ciou adds to areas cannot be set to 0."""
    rivals = oracles.package("torchvision").ops
    pred, target = pair(100)
    got = with_gradients(ops.box_iou_loss, pred, target, kind)
    want = with_gradients(lambda p, t, kind, _: getattr(rivals, NAMES[kind])(p, t, eps=eps), pred, target, kind)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_are_those_of_torchvision(kind):
    def twice(function):
        pred, target = (t.requires_grad_() for t in pair(20))
        first = torch.autograd.grad(function(pred, target, kind, "sum"), (pred, target), create_graph=True)
        return torch.autograd.grad(sum((g * g).sum() for g in first), (pred, target))

    for g, w in zip(twice(ops.box_iou_loss), twice(theirs), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-6, atol=1e-8)


# ---- finite differences -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "ciou"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradcheck(kind, reduction):
    inputs = [t.requires_grad_() for t in pair(12)]
    call = lambda p, t: ops.box_iou_loss(p, t, kind, reduction)  # noqa: E731
    with cnnkernels.record_backends() as runs:
        assert torch.autograd.gradcheck(call, inputs)
    assert {r.backend for r in runs} == {"cpu"}
    assert torch.autograd.gradgradcheck(call, inputs)


def test_alpha_is_a_constant():
    """d ciou = d diou + alpha dv: with alpha's own derivative it would be 2 alpha dv - alpha^2 (dv - d iou)."""
    pred, target = pair(30)
    pred.requires_grad_()

    def v(p):
        angle = lambda b: torch.atan((b[:, 2] - b[:, 0]) / (b[:, 3] - b[:, 1]))  # noqa: E731
        return 4 / math.pi**2 * (angle(target) - angle(p)) ** 2

    with torch.no_grad():
        alpha = v(pred) / (ops.box_iou_loss(pred, target, "iou") + v(pred))
    expected = ops.box_iou_loss(pred, target, "diou").sum() + (alpha * v(pred)).sum()
    got = ops.box_iou_loss(pred, target, "ciou").sum()
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    (want,), (grad,) = torch.autograd.grad(expected, pred), torch.autograd.grad(got, pred)
    torch.testing.assert_close(grad, want, rtol=1e-10, atol=1e-12)


# ---- degenerate boxes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@on_every_backend
def test_degenerate_boxes_have_finite_losses_and_gradients(backend, kind):
    pred, target = (t.float() for t in unusual())
    for outcome in with_gradients(ops.box_iou_loss, pred, target, kind):
        assert outcome.isfinite().all()


def one(pred, target, kind):
    """Loss and gradients of one pair of boxes, as lists."""
    pred, target = torch.tensor([pred], dtype=torch.float32), torch.tensor([target], dtype=torch.float32)
    pred.requires_grad_(), target.requires_grad_()
    loss = ops.box_iou_loss(pred, target, kind, "sum")
    dpred, dtarget = torch.autograd.grad(loss, (pred, target))
    return loss.item(), dpred[0].tolist(), dtarget[0].tolist()


@pytest.mark.parametrize("kind", KINDS)
@on_every_backend
def test_identical_boxes(backend, kind):
    assert one([2, 3, 10, 9], [2, 3, 10, 9], kind) == (0, [0] * 4, [0] * 4)


@on_every_backend
def test_boxes_apart(backend):
    """Two unit squares 4 apart: iou says nothing, the others pull them together along x."""
    a, b = [0, 0, 1, 1], [4, 0, 5, 1]
    assert one(a, b, "iou") == (1, [0] * 4, [0] * 4)
    loss, dpred, dtarget = one(a, b, "giou")  # 2 - union / around: 2 and 5; along y, ties share what cancels
    assert loss == pytest.approx(1 + 3 / 5)
    assert dpred == pytest.approx([1 / 5 - 2 / 25, 0, -1 / 5, 0], abs=1e-6)
    assert dtarget == pytest.approx([1 / 5, 0, 2 / 25 - 1 / 5, 0], abs=1e-6)
    loss, dpred, dtarget = one(a, b, "diou")
    assert loss == pytest.approx(1 + 16 / 26)
    # rho = 4, c^2 = 26: d rho^2 / dx = -4 for each end of the first box, and its left end widens the frame
    assert dpred == pytest.approx([-4 / 26 + 2 * 5 * 16 / 26**2, 16 / 26**2, -4 / 26, -16 / 26**2], abs=1e-6)
    assert dtarget == pytest.approx([4 / 26, 16 / 26**2, 4 / 26 - 2 * 5 * 16 / 26**2, -16 / 26**2], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@on_every_backend
def test_without_area(backend, kind):
    """A point twice: nothing to tell them apart, and no IoU either.  Two points: the penalties are at their largest."""
    point, other = [5.0, 5, 5, 5], [8.0, 1, 8, 1]
    assert one(point, point, kind) == (1, [0] * 4, [0] * 4)
    loss, dpred, _ = one(point, other, kind)
    assert loss == {"iou": 1, "giou": 2, "diou": 2, "ciou": 2}[kind]
    assert all(map(math.isfinite, dpred))


@on_every_backend
def test_a_side_below_0_counts_as_0(backend):
    """The first box has x2 < x1: no area, no intersection and angle 0, but a centre and a place in the frame, 8 x 10."""
    a, b = [6, 2, 4, 8], [2, 3, 10, 12]
    diou = 1 + (1**2 + 2.5**2) / (8**2 + 10**2)
    v = 4 / math.pi**2 * math.atan2(8, 9) ** 2
    expected = {"iou": 1, "giou": 2 - 72 / 80, "diou": diou, "ciou": diou + v * v / (1 + v)}
    for kind, loss in expected.items():
        assert one(a, b, kind)[0] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e6])
@pytest.mark.parametrize("kind", KINDS)
@on_every_backend
def test_the_unit_does_not_matter(backend, kind, scale):
    pred, target = (t.float() for t in pair(50))
    loss, *grads = with_gradients(ops.box_iou_loss, pred, target, kind)
    scaled_loss, *scaled_grads = with_gradients(ops.box_iou_loss, pred * scale, target * scale, kind)
    torch.testing.assert_close(scaled_loss, loss, rtol=1e-5, atol=1e-5)
    for g, w in zip(scaled_grads, grads, strict=True):
        torch.testing.assert_close(g * scale, w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e-30, 1e-20, 1e-15, 1e-10])
@pytest.mark.parametrize("kind", KINDS)
@on_every_backend
def test_tiny_boxes_have_finite_gradients(backend, kind, size):
    narrow, square = [0, 0, size, 1], [0, 0, size, size]
    rows = torch.tensor([narrow, square, square, narrow, [0, 0, 5, 5]])
    for outcome in with_gradients(ops.box_iou_loss, rows, rows.roll(1, 0), kind):
        assert outcome.isfinite().all()
    for outcome in with_gradients(ops.box_iou_loss, rows, rows.clone(), kind):
        assert outcome.isfinite().all()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # Triton's interpreter is numpy
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("kind", KINDS)
@on_every_backend
def test_what_is_not_finite_shows(backend, kind, value):
    for place in range(8):
        both = torch.stack((boxes(9).float(), boxes(9, seed=5).float()))
        both[place // 4, 4, place % 4] = value
        loss, *grads = with_gradients(ops.box_iou_loss, *both, kind)
        assert loss.isnan().tolist() == [i == 4 for i in range(9)]
        for g in grads:
            assert g.isnan().sum(1).tolist() == [4 * (i == 4) for i in range(9)]
        assert ops.box_iou_loss(*both, kind, "sum").isnan()


# ---- the rest of the contract -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@on_every_backend
def test_no_boxes(backend, reduction):
    none = torch.zeros(0, 4, requires_grad=True)
    loss = ops.box_iou_loss(none, none.detach(), "ciou", reduction)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, none)[0].shape == (0, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@on_every_backend
def test_half_boxes_have_float32_losses(backend, dtype):
    """The loss is that of the rounded boxes, not rounded again."""
    pred, target = (t.to(dtype).requires_grad_() for t in pair(40))
    loss = ops.box_iou_loss(pred, target, "ciou", "mean")
    assert loss.dtype is torch.float32
    exact = ops.box_iou_loss(pred.double(), target.double(), "ciou", "mean")
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    assert [g.dtype for g in torch.autograd.grad(loss, (pred, target))] == [dtype] * 2


def test_only_the_target_needs_a_gradient():
    pred, target = pair(10)
    _, _, want = with_gradients(ops.box_iou_loss, pred, target, "giou", "mean")
    target.requires_grad_()
    (got,) = torch.autograd.grad(ops.box_iou_loss(pred, target, "giou", "mean"), target, torch.tensor(-1.0).double())
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)


def test_the_sum_of_the_losses_is_differentiated_without_copies(no_native_ops):
    """loss.sum() hands back one value for all boxes, with stride 0, which the kernel reads as it is."""
    pred, target = (t.float() for t in pair(100))
    pred.requires_grad_()
    (got,) = torch.autograd.grad(ops.box_iou_loss(pred, target, "ciou").sum(), pred)
    (want,) = torch.autograd.grad(ops.box_iou_loss(pred, target, "ciou", "sum"), pred)
    assert torch.equal(got, want)


@pytest.fixture
def no_native_ops(monkeypatch):
    """Only the direct kernels are there: a call that needs its arguments converted fails."""
    if _ext.module is None:
        pytest.skip(str(_ext.error))
    monkeypatch.setattr(_ext, "native_ops", None)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_sums_do_not_depend_on_the_number_of_threads(threads):
    pred, target = (t.float() for t in pair(40_000))
    want = ops.box_iou_loss(pred, target, "ciou", "mean")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert torch.equal(ops.box_iou_loss(pred, target, "ciou", "mean"), want)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 5, 8, 16, 31, 333])
def test_instruction_sets_agree(kind, count):
    pred, target = (t.float() for t in pair(count))
    results = [with_gradients(ops.box_iou_loss, pred, target, kind) for _ in instruction_sets()]
    for result in results[1:]:
        for g, w in zip(result, results[0], strict=True):
            torch.testing.assert_close(g, w, rtol=2e-6, atol=2e-7)


def test_autocast_makes_it_float32():
    pred, target = (t.half() for t in pair(10))
    with torch.autocast("cpu", torch.bfloat16):
        loss = ops.box_iou_loss(pred, target.float(), "giou")
    torch.testing.assert_close(loss, ops.box_iou_loss(pred.float(), target.float(), "giou"), rtol=0, atol=0)


def test_numbering_of_the_reductions():
    text = (ROOT / "csrc" / "math" / "box_iou_loss.h").read_text()
    body = re.search(r"enum class Reduction : int \{(.*?)\}", text, re.DOTALL)[1]
    assert {name: int(code) for name, code in re.findall(r"(\w+) = (\d+)", body)} == REDUCTIONS
