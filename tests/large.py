"""What the tests with more than 2^31 elements share: whether there is memory for them, and zeros that take none."""

from __future__ import annotations

import math
import pathlib

import numpy as np
import pytest
import torch

from cnnkernels import _ext


def free_gib() -> float:
    """Memory that can be had without swapping, in GiB, in this container if it has a limit; 0 if the system does not say."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        group = pathlib.Path("/sys/fs/cgroup")
        if (group / "memory.max").exists() and (limit := (group / "memory.max").read_text().strip()) != "max":
            used = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            free = min(free, int(limit) - int(used["anon"]))
        return free / 2**30
    except (OSError, StopIteration, KeyError):
        return 0.0


def marks(needed_gib: float) -> list[pytest.MarkDecorator]:
    """For a module's ``pytestmark``: needs the extension and this much free memory."""
    return [
        pytest.mark.xdist_group("large"),  # one after the other, also where pytest-xdist runs tests side by side
        pytest.mark.skipif(_ext.module is None, reason=str(_ext.error)),
        pytest.mark.skipif(
            free_gib() < needed_gib, reason=f"needs {needed_gib} GiB of free memory, {free_gib():.1f} are there"
        ),
    ]


def zeros(shape: tuple[int, int, int, int], layout: str) -> torch.Tensor:
    """float16 [N, C, H, W] in layout "nchw" or "channels_last"; pages that nobody writes take no memory (calloc)."""
    n, c, h, w = shape
    flat = torch.from_numpy(np.zeros(math.prod(shape), np.float16))
    return flat.view(shape) if layout == "nchw" else flat.view(n, h, w, c).permute(0, 3, 1, 2)
