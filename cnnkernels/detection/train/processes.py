"""Training in one process or, started by torchrun, in several."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Within, the processes that torchrun started are one group (NCCL on GPUs, else gloo); alone, nothing happens."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def device(wanted: str) -> torch.device:
    """``wanted``; of several GPUs of a machine, this process's."""
    if wanted == "cuda" and count() > 1:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(wanted)


def mean(value: Tensor) -> Tensor:
    """Over the processes."""
    if count() > 1:
        dist.all_reduce(value)
    return value / count()


def wait() -> None:
    """Until all are here."""
    if count() > 1:
        dist.barrier()
