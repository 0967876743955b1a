"""What this CPU can do in float32, on torch's threads: measured, not looked up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cnnkernels import _ext

_COPIES = tuple(1 << n for n in range(18, 30))  # bytes that are moved: from an L2 cache's share to what no cache holds
_SECONDS = 0.15  # for each figure: the best of what fits is the ceiling, so that a busy moment costs nothing


@dataclass(frozen=True)
class Ceilings:
    flops: float
    """Floating-point operations a second, a multiply-add being two."""
    copies: tuple[tuple[int, float], ...]
    """(bytes read and written, bytes a second) of copies, by rising size."""
    threads: int

    @classmethod
    def measured(cls) -> Ceilings:
        """RuntimeError where there is no extension to measure with."""
        return cls(_multiply_adds(), tuple((size, _copy(size)) for size in _COPIES), torch.get_num_threads())

    def bandwidth(self, moved: float) -> float:
        """Bytes a second of the fastest copy of so many bytes or more: small ones stay in the caches."""
        return max(rate for size, rate in self.copies if size >= moved or size == self.copies[-1][0])

    @property
    def memory_bandwidth(self) -> float:
        """Of what no cache holds."""
        return self.copies[-1][1]

    @property
    def cache_bandwidth(self) -> float:
        return self.bandwidth(0)

    def compute_seconds(self, flops: float) -> float:
        """What the arithmetic takes at least."""
        return flops / self.flops

    def memory_seconds(self, moved: float) -> float:
        """What a copy that moves as many bytes takes."""
        return moved / self.bandwidth(moved)


def best_seconds(call: Callable[[], Any]) -> float:
    """Of the fastest call."""
    call()
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while True:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return best


def _multiply_adds() -> float:
    if _ext.module is None:
        raise RuntimeError(f"the ceilings are measured by the extension: {_ext.error}")
    where, turns = torch.empty(0), 200_000  # 2 ms, beside which waking the threads is nothing
    flops = float(torch.ops.cnnkernels_native.fma_peak(where, turns)[0].sum())
    return flops / best_seconds(lambda: torch.ops.cnnkernels_native.fma_peak(where, turns))


def _copy(moved: int) -> float:
    source = torch.ones(moved // 8)
    target = torch.empty_like(source)
    return moved / best_seconds(lambda: target.copy_(source))
