"""One row per network and batch size: what it costs, and how fast eager PyTorch and the fused ops are."""

from __future__ import annotations

import copy
import ctypes
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnkernels._timing import interleaved_medians
from cnnkernels.models import create_model, list_models, model_entry
from cnnkernels.models.cost import cost


@dataclass
class Row:
    """Results for one network and batch size; None where something was not measured."""

    name: str
    family: str
    batch: int
    size: int
    parameters: int
    macs: int
    """Of one image."""
    activations: int
    top1: float | None
    """Published, %."""
    eager_ms: float | None = None
    """Median of the plain ``torch.nn`` modules, in the layout of ``eager_layout``, the faster one."""
    eager_layout: str | None = None
    fused_ms: float | None = None
    eager_memory: int | None = None
    """Bytes: the peak during the first forward pass above what was there before; with what the pass keeps."""
    fused_memory: int | None = None
    problem: str | None = None
    """Why nothing was timed: the outputs disagree, or the network does not take such images."""

    @property
    def speedup(self) -> float | None:
        return self.eager_ms / self.fused_ms if self.eager_ms and self.fused_ms else None

    @property
    def images_per_second(self) -> float | None:
        """On the fused ops."""
        return 1e3 * self.batch / self.fused_ms if self.fused_ms else None

    @property
    def eager_images_per_second(self) -> float | None:
        return 1e3 * self.batch / self.eager_ms if self.eager_ms else None


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    rounds: int = 30
    """Timed calls of each contender at most."""
    seconds: float = 3.0
    """After which no further round begins."""
    time: bool = True
    """False: counts only, at once."""


def select(patterns: Sequence[str]) -> list[str]:
    """The networks that the shell patterns name, in order, each once.  ValueError for a pattern that names none."""
    names: dict[str, None] = {}
    for pattern in patterns:
        found = list_models(pattern, "classification")
        if not found:
            model_entry(pattern)  # says which names are similar
        names.update(dict.fromkeys(found))
    return list(names)


def counts(name: str, batch: int, size: int | None = None) -> Row:
    """A row without measurements."""
    entry = model_entry(name)
    size = entry.input_size if size is None else size
    row = Row(name, entry.family, batch, size, 0, 0, 0, entry.top1)
    try:
        with torch.device("meta"):
            model = create_model(name)
        row.parameters = sum(p.numel() for p in model.parameters())
        counted = cost(model, (1, 3, size, size))
        row.macs, row.activations = counted.macs, counted.activations
    except RuntimeError as e:
        row.problem = f"images of {size} x {size} do not fit: {e}".split("\n")[0]
    return row


def compare(
    names: Sequence[str],
    batches: Sequence[int] = (1,),
    size: int | None = None,
    settings: Settings = Settings(),  # noqa: B008  (frozen)
) -> Iterator[Row]:
    """Yields a row per network and batch size as soon as it is measured.

    names: as ``create_model`` takes them; see ``select``.  size: of the images; None: each network's published one.
    Random weights; the statistics of every BatchNorm belong to them.  The contenders take turns.
    """
    for name in names:
        for batch in batches:
            row = counts(name, batch, size)
            if settings.time and row.problem is None:
                try:
                    _measure(row, _models(name, settings, row.size), settings)
                except (ValueError, RuntimeError) as e:  # images too small, out of memory: the other networks go on
                    row.problem = f"{type(e).__name__}: {e}".split("\n")[0]
            yield row


def _models(name: str, settings: Settings, size: int) -> dict[str, Any]:
    torch.manual_seed(0)
    eager = create_model(name, backend="reference").to(settings.device)
    take_statistics(eager, torch.randn(2, 3, size, size, device=settings.device))
    eager = eager.to(settings.dtype).eval()
    fused = copy.deepcopy(eager)
    fused.backend = None
    last = copy.deepcopy(eager).to(memory_format=torch.channels_last)
    return {"NCHW": eager, "channels_last": last, "fused": fused}


def take_statistics(model: torch.nn.Module, images: Tensor) -> None:
    """Gives every BatchNorm the statistics of these images, so that random weights make numbers of an ordinary size."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.momentum = None
    with torch.no_grad():
        model.train()(images)
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum


def _measure(row: Row, models: dict[str, Any], settings: Settings) -> None:
    x = torch.randn(row.batch, 3, row.size, row.size, device=settings.device, dtype=settings.dtype)
    inputs = {"NCHW": x, "channels_last": x.contiguous(memory_format=torch.channels_last), "fused": x}
    sync = torch.cuda.synchronize if settings.device.startswith("cuda") else None

    def call(name: str) -> Callable[[], Tensor]:
        def run() -> Tensor:
            y: Tensor = models[name](inputs[name])
            if sync is not None:
                sync()
            return y

        return run

    with torch.inference_mode():
        calls = {name: call(name) for name in models}
        peaks, results = {}, {}
        for name, function in calls.items():
            results[name], peaks[name] = _peak_memory(function, settings.device)
        difference = max(_distance(results[n], results["NCHW"]) for n in results)
        # Random weights: a hundred layers of them amplify the rounding of any float32 implementation up to 1e-3.
        tolerance = 1e-3 if settings.dtype is torch.float32 else 0.1
        if not difference < tolerance and not _as_good_as_eager(models["NCHW"], x, results):
            row.problem = f"outputs differ by {difference:.1e} of the largest"
            return
        times = dict(zip(calls, interleaved_medians([*calls.values()], settings.rounds, settings.seconds), strict=True))
    layout = min(("NCHW", "channels_last"), key=lambda name: times[name])
    row.eager_layout, row.eager_ms, row.fused_ms = layout, 1e3 * times[layout], 1e3 * times["fused"]
    row.eager_memory, row.fused_memory = peaks[layout], peaks["fused"]


def _distance(y: Tensor, expected: Tensor) -> float:
    """In units of the largest number expected."""
    return float((y - expected).abs().max() / expected.abs().max())


def _as_good_as_eager(eager: torch.nn.Module, x: Tensor, results: dict[str, Tensor]) -> bool:
    """Whether the fused result is as near to float64's as those of the plain modules in either layout are."""
    exact = copy.deepcopy(eager).double()(x.double())
    error = {name: _distance(y.double(), exact) for name, y in results.items()}
    return error["fused"] <= 2 * max(error["NCHW"], error["channels_last"])


def _peak_memory(function: Callable[[], Tensor], device: str) -> tuple[Tensor, int | None]:
    """The function's result, and the most bytes that there were meanwhile beyond those at its start.

    On a CPU the resident memory of the process, whose peak Linux lets one reset; None elsewhere.
    """
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return function(), torch.cuda.max_memory_allocated() - before
    status, reset = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")
    try:
        ctypes.CDLL(None).malloc_trim(0)  # so that freed memory is taken anew, and counts
        reset.write_text("5")
        before = _kilobytes(status.read_text(), "VmRSS")
    except (OSError, AttributeError):
        return function(), None
    result = function()
    return result, 1024 * max(0, _kilobytes(status.read_text(), "VmHWM") - before)


def _kilobytes(status: str, key: str) -> int:
    found = re.search(rf"^{key}:\s*(\d+) kB", status, re.MULTILINE)
    if found is None:
        raise AttributeError(key)
    return int(found[1])
