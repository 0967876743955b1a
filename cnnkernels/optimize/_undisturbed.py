"""Running somebody's network without leaving traces."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Buffers and random numbers of torch, NumPy and Python are afterwards what they were.

    Buffers change in evaluation, too, where a BatchNorm was left in training or a forward counts its calls.
    """
    kept = [(b, b.clone()) for b in model.buffers()]
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        with torch.no_grad():
            for buffer, before in kept:
                if not torch.equal(buffer, before):  # writing would make folded weights look outdated
                    buffer.copy_(before)
