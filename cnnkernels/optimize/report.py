"""What ``optimize`` did, for people, programs and pictures."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Any

from cnnkernels import _explain


@dataclass(frozen=True)
class Entry:
    """One region of the network, or one module that was left alone.

    kind: conv, conv_sum, norm, squeeze_excite, inverted_residual, shuffle_stage, channel_shuffle, merged_branches, activation,
        spp, max_pool, pixel_mean, linear, run (several regions as one call), or module.
    parts: of a run: how many of each kind.
    status: swapped; undone (it differed, or it was slower); skipped (never tried).
    error: largest difference from the network's own modules, in units of their largest value; None if not verified.
    before_ms, after_ms: medians of the modules and of the region; None if not timed.
    """

    name: str
    kind: str
    status: str
    why: str = ""
    error: float | None = None
    before_ms: float | None = None
    after_ms: float | None = None
    parts: dict[str, int] = field(default_factory=dict)


@dataclass
class Report:
    """Of the mode that was asked for ("infer": evaluation, "train": a forward and a backward pass)."""

    model: str
    mode: str
    example: str
    device: str
    entries: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What else somebody might want to know."""
    error: float | None = None
    """Largest difference of the outputs, in units of the largest value; None if not verified."""
    before_ms: float | None = None
    """Median of the network as it was, in whichever memory format is faster; None if not timed."""
    before_layout: str | None = None
    after_ms: float | None = None
    before_bytes: int | None = None
    """Of activations: those that a training step keeps for the backward pass; in evaluation the ones that are written."""
    after_bytes: int | None = None

    @property
    def swapped(self) -> list[Entry]:
        return [e for e in self.entries if e.status == "swapped"]

    @property
    def speedup(self) -> float | None:
        return self.before_ms / self.after_ms if self.before_ms and self.after_ms else None

    def as_dict(self) -> dict[str, Any]:
        """All of it, and ``speedup``; numbers, strings, lists and dicts only."""
        return {**asdict(self), "speedup": self.speedup}

    def __str__(self) -> str:
        return "\n".join([*self._head(), "", *self._table(), *(f"note: {note}" for note in self.notes)])

    def _head(self) -> list[str]:
        counts: dict[str, int] = {}
        for e in self.swapped:
            for kind, n in (e.parts or {e.kind: 1}).items():
                counts[kind] = counts.get(kind, 0) + n
        parts = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
        lines = [f"{self.model}, {self.mode}, example {self.example}, {self.device}"]
        lines.append(f"swapped: {parts}" if parts else "nothing to gain: the network runs as it was")
        if self.speedup is not None:
            lines.append(
                f"latency: {self.before_ms:.2f} ms ({self.before_layout}) -> {self.after_ms:.2f} ms, {self.speedup:.2f}x"
            )
        if self.before_bytes and self.after_bytes is not None:
            what = "kept for the backward pass" if self.mode == "train" else "of activations written"
            lines.append(f"memory: {self.before_bytes / 2**20:.1f} -> {self.after_bytes / 2**20:.1f} MiB {what}")
        if self.error is not None:
            lines.append(f"largest difference of the outputs: {self.error:.1e} of the largest value")
        return lines

    def _table(self) -> list[str]:
        rows = [("region", "kind", "status", "before", "after", "error", "why")]
        for e in self.entries:
            before, after = (f"{1e3 * t:.0f} us" if t is not None else "-" for t in (e.before_ms, e.after_ms))
            error = "-" if e.error is None else f"{e.error:.0e}"
            inside = ", ".join(f"{n} {kind}" for kind, n in e.parts.items())
            rows.append((e.name, e.kind, e.status, before, after, error, e.why or inside))
        return _explain.table(rows).splitlines() if len(rows) > 1 else []

    def plot(self, path: str | os.PathLike[str]) -> None:
        """A picture (.png, .svg, .pdf): times of the regions before and after, and of the whole.  Needs matplotlib."""
        from cnnkernels.compare.plot import check, write_plot
        from cnnkernels.optimize._plot import figure

        check(os.fspath(path), "plot")
        write_plot(os.fspath(path), figure(self))
