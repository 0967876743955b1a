"""A group of contenders for one op, shape, dtype and layout: built, checked, timed together, reported one by one."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from . import timing

DEVICE = os.environ.get("CNNKERNELS_BENCH_DEVICE", "cpu")
FULL = os.environ.get("CNNKERNELS_BENCH", "quick") == "full"
BATCHES = (1, 8) if DEVICE == "cpu" else (1, 32, 128) if FULL else (1, 128)
DTYPES = (torch.float32,) if DEVICE == "cpu" else (torch.float16,)
if FULL:
    DTYPES = (torch.float32, torch.float16, torch.bfloat16)
OURS = tuple(os.environ.get("CNNKERNELS_BENCH_BACKENDS", "cpu" if DEVICE == "cpu" else "cuda,triton").split(","))

# Relative to the largest magnitude of the expected output, which eager computes in the same dtype.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


class WrongResult(AssertionError):
    """A contender that does not compute what the others do is not timed."""


@dataclass
class Group:
    """calls: contender -> call.  "eager ..." entries are PyTorch in one layout each; "ours ..." are this package's."""

    op: str
    shape: str
    dtype: torch.dtype
    layout: str
    bytes: int  # what one call has to move at least, reads and writes
    calls: dict[str, Callable[[], object]]
    unchecked: tuple[str, ...] = ()  # contenders that compute something else on purpose (plain IoU beside DIoU)
    times: dict[str, list[float]] = field(default_factory=dict)
    host: dict[str, float] = field(default_factory=dict)  # on a GPU: seconds to queue a call

    @property
    def key(self) -> str:
        return f"{self.op} | {self.shape} | {str(self.dtype).removeprefix('torch.')} | {self.layout}"

    def add_copy(self) -> None:
        """A copy that moves the same number of bytes: the practical ceiling, measured in the same rounds."""
        source = torch.zeros(max(self.bytes // 8, 1), dtype=torch.float32, device=DEVICE)
        self.calls["copy"] = source.clone

    def check(self) -> None:
        """Compares every contender's result with the first one's."""
        names = [n for n in self.calls if n != "copy" and n not in self.unchecked]
        want = _outputs(self.calls[names[0]]())
        for name in names[1:]:
            for w, g in zip(want, _outputs(self.calls[name]()), strict=True):
                if not g.is_floating_point():
                    if not torch.equal(w, g):
                        raise WrongResult(f"{self.key}: {name} differs from {names[0]}")
                    continue
                error = float((g.double() - w.double()).abs().max())
                if not error <= TOLERANCE[self.dtype] * max(float(w.double().abs().max()), 1e-6):
                    raise WrongResult(f"{self.key}: {name} differs from {names[0]} by {error:.3g}")

    def measure(self) -> None:
        rounds, visit = (15, 0.02) if FULL else (9, 0.007)
        timer = timing.interleaved_cpu if DEVICE == "cpu" else timing.interleaved_cuda
        collecting = gc.isenabled()
        gc.collect()
        gc.disable()  # a collection would land in whichever contender happens to be running
        try:
            self.times = timer(self.calls, rounds, visit)
            self.host = {} if DEVICE == "cpu" else timing.host_cuda(self.calls)
        finally:
            if collecting:
                gc.enable()


def _outputs(result: object) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result.detach()]
    assert isinstance(result, tuple | list)
    return [r.detach() for r in result if isinstance(r, Tensor)]


class Arena:
    """Keeps the group that is being reported, and the finished ones for the summary."""

    def __init__(self) -> None:
        self.done: dict[str, Group] = {}
        self._current: tuple[object, Group] | None = None

    def run(self, benchmark, spec: object, build: Callable[[], Group], contender: str) -> None:
        """Reports ``contender``'s share of the group that ``build`` makes to pytest-benchmark."""
        if self._current is None or self._current[0] != spec:
            group = build()
            group.add_copy()
            group.check()
            group.measure()
            self.done[group.key] = group
            self._current = (spec, group)
        group = self._current[1]
        if contender not in group.times:
            pytest.skip(f"no {contender} in this group")
        times = group.times[contender]
        benchmark.group = group.key
        benchmark.name = contender
        benchmark.extra_info.update(
            op=group.op, shape=group.shape, dtype=str(group.dtype), layout=group.layout,
            gb_per_s=round(group.bytes / median(times) / 1e9, 2),
        )  # fmt: skip
        if benchmark.enabled:
            # The contenders of a group were timed in turn, so their rounds are handed over rather than run again here.
            stats = benchmark._make_stats(1)
            for seconds in times:
                stats.update(seconds)


def median(times: list[float]) -> float:
    return sorted(times)[len(times) // 2]
