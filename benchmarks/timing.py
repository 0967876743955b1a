"""Timers: interleaved on the CPU, event-timed with a cold cache on a GPU.

All contenders of a group are timed in turn, A B C A B C ..., so that a change of load or clock meets them all alike.
Every call allocates its own output, as a user's call does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

Call = Callable[[], object]


def interleaved_cpu(calls: Mapping[str, Call], rounds: int, visit_s: float) -> dict[str, list[float]]:
    """Seconds per call, a median per visit; a round warms every contender once and calls it for ``visit_s``."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            visit: list[float] = []
            until = time.perf_counter() + visit_s
            while len(visit) < 3 or time.perf_counter() < until:
                start = time.perf_counter()
                call()
                visit.append(time.perf_counter() - start)
            times[name].append(sorted(visit)[len(visit) // 2])
    return times


def interleaved_cuda(calls: Mapping[str, Call], rounds: int, visit_s: float) -> dict[str, list[float]]:
    """Seconds per call between CUDA events, each call after a 512 MB write that empties the L2 cache.

    Before the write the GPU waits for 0.8 ms, in which Python queues the call: the figure is the GPU's time, as
    in a queue that is never empty or a CUDA graph.  ``host_cuda`` has the rest.
    """
    flush = torch.empty(512 << 20, dtype=torch.int8, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(3):
            call()
    for _ in range(rounds):
        for name, call in calls.items():
            events = []
            for _ in range(3):
                start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                torch.cuda._sleep(1_500_000)  # cycles
                flush.zero_()
                start.record()
                call()
                stop.record()
                events.append((start, stop))
            torch.cuda.synchronize()
            times[name].append(sorted(a.elapsed_time(b) for a, b in events)[1] * 1e-3)
    return times


def host_cuda(calls: Mapping[str, Call], rounds: int = 9) -> dict[str, float]:
    """Seconds that Python takes to queue a call, a median: what a small call costs where no graph replays it."""
    times = {}
    for name, call in calls.items():
        queued = []
        for _ in range(rounds):
            torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            queued.append(time.perf_counter() - start)
        times[name] = sorted(queued)[rounds // 2]
    torch.cuda.synchronize()
    return times
