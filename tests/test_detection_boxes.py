"""Boxes in plain PyTorch, against torchvision's functions of the same purpose."""

from __future__ import annotations

import pytest
import torch

from cnnkernels import ops
from cnnkernels.detection.boxes import box_area, box_iou_matrix, clip_boxes, cxcywh_to_xyxy, xyxy_to_cxcywh

from . import oracles
from .cases.box_iou_loss import KINDS, boxes, unusual

NAMES = {
    "iou": "box_iou",
    "giou": "generalized_box_iou",
    "diou": "distance_box_iou",
    "ciou": "complete_box_iou",
}


@pytest.mark.parametrize("kind", KINDS)
def test_matrix_is_torchvisions(kind):
    a, b = boxes(30), boxes(17, seed=5)
    want = getattr(oracles.package("torchvision").ops, NAMES[kind])(a, b)
    torch.testing.assert_close(box_iou_matrix(a, b, kind), want, rtol=2e-8, atol=2e-8)  # torchvision's eps, 1e-7


@pytest.mark.parametrize("kind", KINDS)
def test_matrix_and_its_gradient_agree_with_the_loss(kind):
    a, b = boxes(6).requires_grad_(), boxes(5, seed=5).requires_grad_()
    rows, columns = torch.arange(6).repeat_interleave(5), torch.arange(5).repeat(6)
    matrix, loss = box_iou_matrix(a, b, kind), ops.box_iou_loss(a[rows], b[columns], kind)
    torch.testing.assert_close(1 - matrix.flatten(), loss, rtol=1e-12, atol=1e-12)
    weight = torch.linspace(-1, 1, 30, dtype=torch.float64)
    got = torch.autograd.grad(matrix.flatten(), (a, b), -weight)
    for g, w in zip(got, torch.autograd.grad(loss, (a, b), weight), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_boxes_have_finite_gradients(kind):
    a, b = (t.requires_grad_() for t in unusual())
    for t in (box_iou_matrix(a, b, kind), *torch.autograd.grad(box_iou_matrix(a, b, kind).sum(), (a, b))):
        assert t.isfinite().all()


def test_matrix_of_halves_and_of_nothing():
    a, b = boxes(4).half(), boxes(3, seed=5).half()
    got = box_iou_matrix(a, b)
    assert got.dtype is torch.float32
    torch.testing.assert_close(got, box_iou_matrix(a.float(), b.float()), rtol=0, atol=0)
    assert box_iou_matrix(a[:0], b, "ciou").shape == (0, 3)
    assert box_iou_matrix(a, b[:0], "ciou").shape == (4, 0)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((torch.zeros(3, 5), torch.zeros(3, 4)), ValueError, r"a must be \[N, 4\], got \[3, 5\]"),
        ((torch.zeros(3, 4), torch.zeros(4)), ValueError, r"b must be \[N, 4\], got \[4\]"),
        ((torch.zeros(3, 4), torch.zeros(3, 4).half()), TypeError, "b must be torch.float32"),
        ((torch.zeros(3, 4).long(), torch.zeros(3, 4)), TypeError, "a must be float32"),
        ((torch.zeros(3, 4), torch.zeros(3, 4), "siou"), ValueError, "kind must be one of iou"),
    ],
)
def test_bad_arguments_of_the_matrix(arguments, error, match):
    with pytest.raises(error, match=match):
        box_iou_matrix(*arguments)


def test_forms_and_areas():
    xyxy = torch.tensor([[[2.0, 3, 10, 9], [0, 0, 1, 1]], [[5, 5, 5, 9], [9, 2, 3, 8]]])
    assert xyxy_to_cxcywh(xyxy).tolist() == [[[6, 6, 8, 6], [0.5, 0.5, 1, 1]], [[5, 7, 0, 4], [6, 5, -6, 6]]]
    assert torch.equal(cxcywh_to_xyxy(xyxy_to_cxcywh(xyxy)), xyxy)
    assert box_area(xyxy).tolist() == [[48, 1], [0, 0]]
    for function in (xyxy_to_cxcywh, cxcywh_to_xyxy, box_area):
        assert torch.autograd.gradcheck(function, boxes(3).requires_grad_())
        with pytest.raises(ValueError, match=r"boxes must be \[..., 4\], got \[3, 2\]"):
            function(torch.zeros(3, 2))


def test_clip():
    outside = torch.tensor([[-3.0, -2, 5, 700], [630, 470, 650, 490], [700, 500, 720, 510]], requires_grad=True)
    clipped = clip_boxes(outside, (480, 640))
    assert clipped.tolist() == [[0, 0, 5, 480], [630, 470, 640, 480], [640, 480, 640, 480]]
    assert torch.equal(clipped, oracles.package("torchvision").ops.clip_boxes_to_image(outside, (480, 640)))
    (grad,) = torch.autograd.grad(clipped.sum(), outside)
    assert grad.tolist() == [[0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    with pytest.raises(ValueError, match="size must be"):
        clip_boxes(outside, (-1, 640))
