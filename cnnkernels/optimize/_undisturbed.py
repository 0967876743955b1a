"""Running somebody's network without leaving traces."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def same_random_numbers(seed: int = 0) -> Iterator[None]:
    """Every block with this seed draws the same ones, with torch, NumPy and Python; afterwards theirs go on as before."""
    python, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            for start in (random.seed, np.random.seed, torch.manual_seed):
                start(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Buffers and random numbers are afterwards what they were.

    Buffers change in evaluation, too, where a BatchNorm was left in training or a forward counts its calls.
    """
    kept = [(b, b.clone()) for b in model.buffers()]
    try:
        with same_random_numbers():
            yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                if not torch.equal(buffer, before):  # writing would make folded weights look outdated
                    buffer.copy_(before)


def copied(args: Sequence[Any]) -> tuple[Any, ...]:
    """Arguments that may be written to."""
    return tuple(a.detach().clone() if isinstance(a, Tensor) else a for a in args)
