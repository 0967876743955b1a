"""log.csv: a row an epoch, and its curves."""

from __future__ import annotations

import csv
import io
import pathlib
from typing import Any

from cnnkernels._files import write_whole


class Log:
    """Rows of numbers by column; the file is replaced whole, so that a killed run leaves whole rows."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = _read(path) if path.is_file() else []

    def keep(self, epochs: int) -> None:
        """Forgets rows of epochs after ``epochs``, which will be trained again."""
        self.rows = [r for r in self.rows if r["epoch"] <= epochs]

    def add(self, row: dict[str, float]) -> None:
        self.rows.append(row)
        columns = list(dict.fromkeys(name for r in self.rows for name in r))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in r.items()} for r in self.rows)
        write_whole(self.path, text.getvalue().encode())


def _read(path: pathlib.Path) -> list[dict[str, float]]:
    try:
        with path.open(newline="") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: damaged: {error}; move it away to go on") from error


def draw_curves(rows: list[dict[str, float]], path: pathlib.Path, title: str) -> None:
    """Loss and its parts, and mAP, over the epochs, as PNG.  ImportError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("curves need matplotlib: pip install matplotlib") from None
    figure: Any = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [r["epoch"] for r in rows]
    for name in [n for n in rows[0] if n not in ("epoch", "lr", "seconds", "map", "map50")]:
        values = [r.get(name, float("nan")) for r in rows]
        if any(v > 0 for v in values):
            left.plot(epochs, values, label=name, linewidth=2 if name == "loss" else 1)
    left.set(xlabel="epoch", ylabel="loss (training)", yscale="log", title=title)
    left.legend()
    for name, label in (("map50", "mAP@0.5"), ("map", "mAP@0.5:0.95")):
        points = [(r["epoch"], r[name]) for r in rows if name in r]
        if points:
            right.plot(*zip(*points, strict=True), marker="o", markersize=3, label=f"{label}, last {points[-1][1]:.3f}")
    right.set(xlabel="epoch", ylabel="average precision (held out)", ylim=(0, 1))
    right.grid(alpha=0.3)
    right.legend(loc="lower right")
    figure.savefig(path, dpi=120)
