"""Candidates timed against each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Call = Callable[[], Any]

_ROUNDS = 9
_VISIT = 200e-6  # seconds of calls that one reading of the clock covers
_HOPELESS = 10.0  # times the fastest: not measured again
_MARGIN = 0.05  # by which another candidate must beat the default: less is noise


def possible(device: torch.device) -> bool:
    """Not while a CUDA graph is captured: its calls are recorded, not run."""
    return device.type != "cuda" or not torch.cuda.is_current_stream_capturing()


def seconds(calls: Mapping[str, Call], device: torch.device) -> dict[str, float]:
    """Median seconds of a call, allocation of its result included; candidates that raise or are hopeless are left out.

    On a GPU between two events around calls in a row: the larger of what Python and the GPU take.
    """
    visit = _cuda_visit if device.type == "cuda" else _cpu_visit
    first: dict[str, float] = {}
    for name, call in calls.items():
        try:
            visit(call, 1)  # compiles, loads, allocates
            first[name] = min(visit(call, 1) for _ in range(3))
        except Exception:
            continue  # it would fail in use as well: the others are there
    if not first:
        return {}
    best = min(first.values())
    times: dict[str, list[float]] = {n: [] for n, t in first.items() if t <= _HOPELESS * best}
    for _ in range(_ROUNDS):
        for name, own in times.items():  # in turn, so that a busy moment hits all of them
            own.append(visit(calls[name], max(1, round(_VISIT / max(first[name], 1e-9)))))
    return {name: statistics.median(own) for name, own in times.items()}


def winner(times: Mapping[str, float], default: str) -> str:
    """The default, unless another candidate is clearly faster, or it is the one that could not be measured."""
    if not times:
        return default
    best = min(times, key=lambda name: times[name])
    return default if default in times and times[best] > (1 - _MARGIN) * times[default] else best


def _cpu_visit(call: Call, times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def _cuda_visit(call: Call, times: int) -> float:
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(times):
        call()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) * 1e-3 / times
