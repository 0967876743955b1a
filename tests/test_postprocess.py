"""From predictions to boxes, against a loop that takes the definition literally, and torchvision's pieces for plain IoU."""

from __future__ import annotations

import pytest
import torch

import cnnkernels
from cnnkernels import _boxes
from cnnkernels.detection import postprocess

from . import torchvision_oracle


def predictions(n=2, rows=200, classes=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    centre = torch.rand(n, rows, 2, generator=g) * 80 + 10
    size = torch.rand(n, rows, 2, generator=g) * 40 + 5
    return torch.cat((centre, size, torch.rand(n, rows, 1 + classes, generator=g)), 2)


def expected(p, threshold, iou, kind, most, multi_label, agnostic):
    """One image, one box after the other."""
    candidates = []
    for cx, cy, w, h, objectness, *classes in p.double().tolist():
        best = max(range(len(classes)), key=classes.__getitem__)
        for label in range(len(classes)) if multi_label else [best]:
            score = objectness * classes[label]
            if objectness > threshold and score > threshold:
                candidates.append((score, label, [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]))
    kept = []
    for score, label, box in sorted(candidates, key=lambda c: -c[0]):
        if all(
            (label != other and not agnostic)
            or _boxes.overlap(torch.tensor(b).double(), torch.tensor([box]).double(), kind, 1.0)[0] <= iou
            for _, other, b in kept
        ):
            kept.append((score, label, box))
    return kept[:most]


@pytest.mark.parametrize("kind", ["iou", "diou", "ciou"])
@pytest.mark.parametrize(("multi_label", "agnostic"), [(False, False), (True, False), (False, True)])
def test_against_a_loop(kind, multi_label, agnostic):
    p = predictions()
    with cnnkernels.record_backends() as runs:
        found = postprocess(
            p,
            score_threshold=0.3,
            iou_threshold=0.4,
            kind=kind,
            max_detections=50,
            multi_label=multi_label,
            class_agnostic=agnostic,
        )
    assert {(r.op, r.backend) for r in runs} == {("detection_candidates", "cpu"), ("nms_padded", "cpu")}
    for i, detections in enumerate(found.to_list()):
        want = expected(p[i], 0.3, 0.4, kind, 50, multi_label, agnostic)
        assert 5 < len(want) == len(detections)
        assert detections.labels.tolist() == [label for _, label, _ in want]
        torch.testing.assert_close(detections.scores, torch.tensor([s for s, _, _ in want]))
        torch.testing.assert_close(detections.boxes, torch.tensor([b for _, _, b in want]))


def test_against_torchvision():
    torchvision = torchvision_oracle.torchvision()
    if torchvision is None:
        pytest.skip(torchvision_oracle.why_not())
    p = predictions(1, 3000, 20, seed=3)
    found = postprocess(p, score_threshold=0.5, iou_threshold=0.6, kind="iou").to_list()[0]
    scores, labels = (p[0, :, 4:5] * p[0, :, 5:]).max(1)
    passes = scores > 0.5
    boxes = torchvision.ops.box_convert(p[0, :, :4], "cxcywh", "xyxy")[passes]
    kept = torchvision.ops.batched_nms(boxes, scores[passes], labels[passes], 0.6)[:300]
    assert torch.equal(found.boxes, boxes[kept]) and torch.equal(found.labels, labels[passes][kept])


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("most", [0, 7, 300])
def test_one_call_is_the_same(kind, multi_label, most, count_direct):
    """Plain float32 tensors take one call; a recorder sees the ops, which give the same bits."""
    ops = count_direct("postprocess")
    for p in (predictions(3), predictions(1, 5000, 2, seed=4), predictions(0), predictions(2, 0)):
        for options in (
            {},
            {"score_threshold": 0.05, "max_candidates": 50},
            {"class_agnostic": True, "iou_threshold": 0.1, "beta": 0.6},
        ):
            options = {**options, "kind": kind, "multi_label": multi_label, "max_detections": most}
            before = ops.calls
            one = postprocess(p, **options)
            assert ops.calls == before + 1
            with cnnkernels.record_backends() as runs:
                several = postprocess(p, **options)
            assert ops.calls == before + 1 and len(runs) == 2
            assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, several, strict=True))


def test_views_are_copied():
    p = predictions(2)
    wide = torch.cat((p, p), 2)[..., : p.shape[2]]
    assert not wide.is_contiguous()
    assert all(torch.equal(a, b) for a, b in zip(postprocess(wide), postprocess(p), strict=True))


def test_padding():
    p = predictions(2, 30)
    p[1, :, 4] = 0  # nothing in the second image
    boxes, scores, labels, count = postprocess(p, max_detections=40)
    assert boxes.shape == (2, 40, 4) and 0 < count[0] < 40 and count[1] == 0
    for i in (0, 1):
        rest = slice(int(count[i]), None)
        assert not boxes[i, rest].any() and not scores[i, rest].any() and (labels[i, rest] == -1).all()
        assert (labels[i, : count[i]] >= 0).all() and (scores[i, : count[i]] > 0.25).all()


@pytest.mark.parametrize(("n", "rows"), [(0, 30), (2, 0)])
def test_nothing_in(n, rows):
    found = postprocess(predictions(n, rows), max_detections=7)
    assert found.boxes.shape == (n, 7, 4) and found.counts.tolist() == [0] * n and (found.labels == -1).all()
    assert [len(d) for d in found.to_list()] == [0] * n


def test_not_a_number():
    """What is NaN is never found, and hides nothing."""
    p = predictions(1, 60)
    want = postprocess(p[:, 10:])
    p[0, :5, 0], p[0, 5:8, 4], p[0, 8:10, 5:] = float("nan"), float("nan"), float("nan")
    got = postprocess(p)
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


def test_fewer_candidates():
    p = predictions(1, 400)
    best = postprocess(p, max_candidates=20, kind="iou", iou_threshold=1.0)
    every = postprocess(p, kind="iou", iou_threshold=1.0)
    assert best.counts == 20 and torch.equal(best.scores[0, :20], every.scores[0, :20])


def test_half_precision():
    found = postprocess(predictions().half())
    assert found.boxes.dtype is torch.float32 and found.counts.min() > 0


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_and_exports(dynamic):
    p = predictions()
    compiled = torch.compile(postprocess, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(compiled(p), postprocess(p), strict=True))


def test_bad_input():
    with pytest.raises(ValueError, match=r"predictions must be \[N, A, 5 \+ classes\]"):
        postprocess(torch.zeros(3, 85))
    with pytest.raises(ValueError, match="kind must be one of"):
        postprocess(predictions(), kind="piou")
    with pytest.raises(ValueError, match="max_out must not be negative"):
        postprocess(predictions(), max_detections=-1)
