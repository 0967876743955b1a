"""Timing contenders beside each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def interleaved_times(contenders: Sequence[Callable[[], Any]], rounds: int, seconds: float = 10.0) -> list[list[float]]:
    """Seconds of every call of each; the contenders take turns, so that a busy moment hits all of them.

    After one round that does not count: ``rounds`` of them, or fewer if they take longer than ``seconds`` together.
    """
    times: list[list[float]] = [[] for _ in contenders]
    for call in contenders:
        call()
    end = time.perf_counter() + seconds
    for turn in range(rounds):
        if turn and time.perf_counter() > end:
            break
        for own, call in zip(times, contenders, strict=True):
            start = time.perf_counter()
            call()
            own.append(time.perf_counter() - start)
    return times


def interleaved_medians(contenders: Sequence[Callable[[], Any]], rounds: int, seconds: float = 10.0) -> list[float]:
    """Median seconds of each, see ``interleaved_times``."""
    return [statistics.median(t) for t in interleaved_times(contenders, rounds, seconds)]
