"""Learning rates over a training: a straight rise, half a cosine, and a flat end."""

from __future__ import annotations

import functools
import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(step: int, steps: int, warmup: int = 0, final: float = 0.05, flat: int = 0) -> float:
    """What the learning rate is multiplied by in ``step``, counted from 0.

    It rises from 1 / (warmup + 1) in a straight line over the first ``warmup`` steps, falls from 1 to ``final`` as half
    a cosine, and stays there for the last ``flat`` of ``steps``, and beyond (YOLOX's epochs without augmentation).

    ValueError unless ``0 <= warmup``, ``0 <= flat`` and ``warmup + flat < steps``.
    """
    if warmup < 0 or flat < 0 or warmup + flat >= steps:
        raise ValueError(f"warmup_cosine: warmup and flat must fit into the steps, got {warmup} and {flat} of {steps}")
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min((step - warmup) / (steps - warmup - flat), 1.0)
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def cosine_schedule(
    optimizer: Optimizer, steps: int, warmup: int = 0, final: float = 0.05, flat: int = 0, last_step: int = -1
) -> LambdaLR:
    """``warmup_cosine`` for every parameter group of an optimizer; ``scheduler.step()`` after each of its steps."""
    factor = functools.partial(warmup_cosine, steps=steps, warmup=warmup, final=final, flat=flat)
    return LambdaLR(optimizer, factor, last_step)
