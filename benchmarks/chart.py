"""The chart: one bar per op, the geometric mean of its ratios to eager PyTorch, and a dot per shape."""

from __future__ import annotations

import pathlib
from typing import Any

Row = dict[str, Any]


def _name(row: Row) -> str:
    backend = "" if row["backend"] == "cpu" else f" ({row['backend']})"
    dtype = "" if row["dtype"] == "float32" else f" {row['dtype']}"
    return f"{row['op']}{backend}{dtype}"


def draw(rows: list[Row], ops: list[Row], info: Row, path: pathlib.Path) -> bool:
    """Draws to ``path``; False if matplotlib is not installed."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return False
    ops = ops[::-1]
    figure, axis = plt.subplots(figsize=(9, 0.42 * len(ops) + 1.6), layout="constrained")
    for y, s in enumerate(ops):
        key = (s["op"], s["backend"], s["dtype"])
        ratios = [r["eager_ratio"] for r in rows if (r["op"], r["backend"], r["dtype"]) == key]
        axis.barh(y, s["geomean"], color="#3b7dd8", height=0.62, zorder=2)
        axis.scatter(ratios, [y] * len(ratios), s=9, color="#1d2b44", alpha=0.5, zorder=3)
        axis.text(max(ratios) * 1.08, y, f"{s['geomean']:.1f}x", va="center", fontsize=9.5, fontweight="bold")
    axis.set_yticks(range(len(ops)), [_name(s) for s in ops], fontsize=9.5)
    axis.axvline(1, color="#b03030", linewidth=1.2, zorder=4)
    axis.set_xscale("log")
    top = max(s["best"] for s in ops) * 1.8
    axis.set_xlim(min(0.8, 0.9 * min(s["worst"] for s in ops)), top)
    ticks = [t for t in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500) if t < top]
    axis.set_xticks(ticks, [f"{t}x" for t in ticks])
    axis.minorticks_off()
    axis.grid(axis="x", color="#dddddd", zorder=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_xlabel(
        "times faster than eager PyTorch in its better layout (bar: geometric mean, dot: one shape)", fontsize=9
    )
    where = info.get("gpu") or f"{info['cpu']}, {info['threads']} threads, {info['cpu_isa'].upper()}, fp32"
    axis.set_title(f"{where}, torch {info['torch']}", fontsize=10, loc="left")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True
