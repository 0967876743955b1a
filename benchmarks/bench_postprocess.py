"""From a YOLO detector's predictions to boxes, against the same with torchvision's batched_nms, in the two usual forms:
YOLOv5's, which drops rows of low objectness first, and YOLOX's, which takes the highest class of every row first.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cnnkernels.detection import postprocess

from .arena import DEVICE, OURS, Group
from .rivals import no_grad, on_backend

CONTENDERS = [*(f"ours {b}" for b in OURS), "eager objectness first", "eager class first", "copy"]
USES = {"detect": (0.25, 2048), "evaluate": (0.001, 30000)}
"""Score threshold and ``max_candidates``: of somebody who looks at boxes (the defaults), and of who measures mAP."""
SPECS = [(rows, batch, use) for rows in (8400, 25200) for batch in (1, 16) for use in USES]
CLASSES, OVERLAP, MOST = 80, 0.5, 300


def make_predictions(batch: int, rows: int) -> Tensor:
    """30 objects a picture, each found by 10 rows; of the other rows one in ten has an objectness above 0.01."""
    g = torch.Generator().manual_seed(rows)
    p = torch.empty(batch, rows, 5 + CLASSES)
    p[..., :2] = torch.rand(batch, rows, 2, generator=g) * 640
    p[..., 2:4] = torch.rand(batch, rows, 2, generator=g) * 90 + 10
    p[..., 4] = torch.exp(torch.randn(batch, rows, generator=g) * 1.5 - 6.5).clamp(max=0.2)
    p[..., 5:] = torch.rand(batch, rows, CLASSES, generator=g) * 0.3
    for image in p:
        for _ in range(30):
            near = torch.randint(rows, (10,), generator=g)
            centre, size = torch.rand(2, generator=g) * 640, torch.rand(2, generator=g) * 150 + 20
            image[near, :2] = centre + torch.randn(10, 2, generator=g) * size * 0.05
            image[near, 2:4] = size * (1 + 0.1 * torch.randn(10, 2, generator=g))
            image[near, 4] = torch.rand(10, generator=g) * 0.6 + 0.4
            image[near, 5 + int(torch.randint(CLASSES, (1,), generator=g))] = 0.95
    return p


def _corners(rows: Tensor) -> Tensor:
    half = rows[:, 2:4] / 2
    return torch.cat((rows[:, :2] - half, rows[:, :2] + half), 1)


def _chosen(nms, boxes: Tensor, scores: Tensor, labels: Tensor) -> list[Tensor]:
    kept = nms(boxes, scores, labels, OVERLAP)[:MOST]
    return [boxes[kept], scores[kept], labels[kept]]


def objectness_first(nms, p: Tensor, threshold: float) -> list[Tensor]:
    out = []
    for image, passes in zip(p, p[..., 4] > threshold, strict=True):
        rows = image[passes]
        best, labels = rows[:, 5:].max(1)
        scores = best * rows[:, 4]
        high = scores > threshold
        out += _chosen(nms, _corners(rows[high]), scores[high], labels[high])
    return out


def class_first(nms, p: Tensor, threshold: float) -> list[Tensor]:
    out = []
    for image in p:
        best, labels = image[:, 5:].max(1)
        scores = best * image[:, 4]
        high = scores > threshold
        out += _chosen(nms, _corners(image[high]), scores[high], labels[high])
    return out


def ours(p: Tensor, threshold: float, candidates: int) -> list[Tensor]:
    found = postprocess(
        p, score_threshold=threshold, iou_threshold=OVERLAP, kind="iou", max_detections=MOST, max_candidates=candidates
    )
    return [t for d in found.to_list() for t in (d.boxes, d.scores, d.labels)]


def build(spec) -> Group:
    rows, batch, use = spec
    nms = pytest.importorskip("tests.torchvision_oracle").torchvision().ops.batched_nms
    p = make_predictions(batch, rows).to(DEVICE)
    threshold, candidates = USES[use]
    calls = {
        "eager objectness first": no_grad(lambda: objectness_first(nms, p, threshold)),
        "eager class first": no_grad(lambda: class_first(nms, p, threshold)),
    }
    for backend in OURS:
        calls[f"ours {backend}"] = on_backend(backend, no_grad(lambda: ours(p, threshold, candidates)))
    read = batch * rows * 64  # a cache line of each row; the rows that pass are few
    return Group("postprocess", f"{rows} rows b{batch} {use}", torch.float32, "any", read, calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s[0]}-b{s[1]}-{s[2]}")
def bench_postprocess(benchmark, arena, spec, contender):
    arena.run(benchmark, ("postprocess", spec), lambda: build(spec), contender)
