"""IoU losses, forward and backward, against torchvision's, which are composed of PyTorch's operators."""

from __future__ import annotations

import pytest
import torch

from cnnkernels import ops

from .arena import DEVICE, OURS, Group
from .bench_nms import make_boxes
from .rivals import on_backend
from .shapes import BOX_PAIRS

CONTENDERS = [*(f"ours {b}" for b in OURS), "eager torchvision", "copy"]
RIVALS = {"giou": "generalized_box_iou_loss", "diou": "distance_box_iou_loss", "ciou": "complete_box_iou_loss"}


def build(spec) -> Group:
    """A call is the loss's mean and its gradient towards the predicted boxes, as in a training step."""
    count, kind = spec
    torchvision = pytest.importorskip("tests.torchvision_oracle").torchvision()
    theirs = getattr(torchvision.ops, RIVALS[kind])
    target, _ = make_boxes(count, "spread")
    size = (target[:, 2:] - target[:, :2]).repeat(1, 2)
    noise = torch.rand(count, 4, generator=torch.Generator().manual_seed(1)) - 0.5
    pred, target = (target + 0.9 * size * noise).to(DEVICE).requires_grad_(), target.to(DEVICE)

    def step(loss):
        def call() -> tuple[torch.Tensor, torch.Tensor]:
            value = loss(pred, target, reduction="mean")
            return value, torch.autograd.grad(value, pred)[0]

        return call

    calls = {"eager torchvision": step(theirs)}
    for backend in OURS:
        calls[f"ours {backend}"] = on_backend(backend, step(lambda p, t, **kw: ops.box_iou_loss(p, t, kind, **kw)))
    # forward 2 x 16 bytes a pair, backward the same and 16 written
    return Group(f"{kind} loss", f"{count} boxes", torch.float32, "any", count * 80, calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("spec", [(n, k) for k in RIVALS for n in BOX_PAIRS], ids=lambda s: f"{s[1]}-{s[0]}")
def bench_box_iou_loss(benchmark, arena, spec, contender):
    arena.run(benchmark, ("box_iou_loss", spec), lambda: build(spec), contender)
