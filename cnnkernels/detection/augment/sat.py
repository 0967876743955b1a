"""Self-adversarial training (YOLOv4, Bochkovskiy et al. 2020, arXiv 2004.10934)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.detection.types import Targets
from cnnkernels.nn.cm_batch_norm import CmBatchNorm2d


def self_adversarial(
    model: nn.Module,
    loss: Callable[[Any, Targets], Tensor | dict[str, Tensor]],
    x: Tensor,
    targets: Targets,
    epsilon: float = 0.01,
    bounds: tuple[float, float] | None = None,
) -> Tensor:
    """The pictures moved a little so that the detector no longer sees their objects: the first of SAT's two passes.

    The second is ordinary training on the result, with the true targets.  The image takes one step of ``epsilon``, each pixel by
    the sign of its gradient, down the loss of the same pictures without objects.  Pictures without objects stay as they are.

    model: a detector, in training; its weights, their gradients and all buffers (BatchNorm's statistics) are as they
        were afterwards.
    loss: takes what the model returns and targets, and returns a scalar, alone or as the entry "loss" of a dictionary.
    x: [N, C, H, W], floating-point, as the model takes it.
    targets: one [K, 5] per picture.
    epsilon: in the units of x.
    bounds: least and largest value of the result; none unless given.

    Returns a new tensor like x, without gradients.  ValueError if x is not floating-point, epsilon is negative or
    targets do not fit x.
    """
    if x.dim() != 4 or not x.is_floating_point() or len(targets) != len(x):
        raise ValueError(
            f"self_adversarial: x must be floating-point [N, C, H, W] with as many targets, got {x.dtype} {list(x.shape)} "
            f"and {len(targets)}"
        )
    if not epsilon >= 0:
        raise ValueError(f"self_adversarial: epsilon must not be negative, got {epsilon}")
    moved = x.detach().clone().requires_grad_()
    nothing = [target[:0] for target in targets]
    with _buffers_kept(model), torch.enable_grad():
        terms = loss(model(moved), nothing)
        value = terms["loss"] if isinstance(terms, dict) else terms
        (gradient,) = torch.autograd.grad(value, moved)
    has_objects = torch.tensor([len(target) > 0 for target in targets], device=x.device)
    step = epsilon * gradient.sign() * has_objects[:, None, None, None]
    result = x.detach() - step.to(x.dtype)
    return result if bounds is None else result.clamp(*bounds)


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards every buffer holds what it held, and every CmBatchNorm2d is where it was within its batch."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    cross = [(m, m.accumulated) for m in model.modules() if isinstance(m, CmBatchNorm2d)]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for module, accumulated in cross:
            module.accumulated = accumulated
