"""DIoU-NMS against torchvision's plain NMS, on boxes spread over a picture and on detector-like clusters.

torchvision suppresses by IoU, so the kept sets differ and are not compared with each other; ours is also timed as plain
IoU, and that one is.
"""

from __future__ import annotations

import pytest
import torch

from cnnkernels import ops

from .arena import DEVICE, OURS, Group
from .rivals import no_grad, on_backend
from .shapes import BOXES

CONTENDERS = [*(f"ours {b}" for b in OURS), "eager torchvision", "copy"]


def make_boxes(count: int, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """xyxy boxes in a 1280 x 1280 picture: "spread" evenly, or "clustered" like a detector's: 10 to an object."""
    g = torch.Generator().manual_seed(count)
    objects = count if kind == "spread" else count // 10
    centre, size = torch.rand(objects, 2, generator=g) * 1280, torch.rand(objects, 2, generator=g) * 90 + 10
    repeat = count // objects
    centre, size = centre.repeat_interleave(repeat, 0), size.repeat_interleave(repeat, 0)
    if repeat > 1:
        centre = centre + torch.randn(count, 2, generator=g) * size * 0.08
        size = size * (1 + 0.1 * torch.randn(count, 2, generator=g)).clamp(min=0.3)
    return torch.cat((centre - size / 2, centre + size / 2), 1), torch.rand(count, generator=g)


def build(spec) -> Group:
    count, kind, overlap = spec
    torchvision = pytest.importorskip("tests.torchvision_oracle").torchvision()
    boxes, scores = (t.to(DEVICE) for t in make_boxes(count, kind))
    calls = {"eager torchvision": no_grad(lambda: torchvision.ops.nms(boxes, scores, 0.5))}
    for backend in OURS:
        ours = no_grad(lambda: ops.nms(boxes, scores, 0.5, kind=overlap))
        calls[f"ours {backend}"] = on_backend(backend, ours)
    unchecked = ("eager torchvision",) if overlap != "iou" else ()
    return Group(f"{overlap} nms", f"{count} boxes {kind}", torch.float32, "any", count * 28, calls, unchecked)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize(
    "spec", [(n, k, o) for o in ("diou", "iou") for n, k in BOXES], ids=lambda s: f"{s[2]}-{s[0]}-{s[1]}"
)
def bench_nms(benchmark, arena, spec, contender):
    arena.run(benchmark, ("nms", spec), lambda: build(spec), contender)
