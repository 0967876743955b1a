"""The roof, and a dot for each layer."""

from __future__ import annotations

from typing import Any

from cnnkernels.compare.labels import place
from cnnkernels.compare.plot import pyplot
from cnnkernels.roofline.measure import Result, Row

COLOURS = {"compute": "#3b75af", "memory": "#c26a1d", "overhead": "#8a8a8a"}
"""By what bounds a layer."""
_MARKERS = {"cnnkernels": "o", "eager": "D"}
_NAMED = 8  # layers of a contender that take the most time


def figure(result: Result) -> Any:
    """Logarithmic; a dot's area is its share of the time.  Layers without convolutions and products are not on it."""
    plt = pyplot("--png")
    ceilings = result.ceilings
    rows = [r for r in result.rows if r.flops]
    fig, ax = plt.subplots(figsize=(10, 6.2), layout="constrained")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_major_formatter("{x:g}")
    left = min([0.25, *(0.7 * r.intensity for r in rows)])
    right = max([2 * ceilings.flops / ceilings.memory_bandwidth, *(1.5 * r.intensity for r in rows)])
    ax.set_xlim(left, right)
    ax.set_ylim(min([1.0, *(0.6 * r.flops / r.seconds / 1e9 for r in rows)]), 1.8 * ceilings.flops / 1e9)
    for bandwidth, label, style in (
        (ceilings.cache_bandwidth, "copies within caches", "--"),
        (ceilings.memory_bandwidth, "copies in memory", "-"),
    ):
        xs = [left, min(max(ceilings.flops / bandwidth, left), right), right]
        ys = [min(x * bandwidth, ceilings.flops) / 1e9 for x in xs]
        ax.plot(xs, ys, style, color="#444444", linewidth=1.2, label=f"{label}, {bandwidth / 1e9:.1f} GB/s")
    top = ceilings.flops / 1e9
    # At the corner that layers of networks stay clear of.
    ax.annotate(f"{top:.0f} GFLOP/s", (ceilings.flops / ceilings.cache_bandwidth, 1.04 * top), fontsize=9)
    for contender in result.network_seconds:
        _dots(ax, [r for r in rows if r.contender == contender], contender)
    ax.set_xlabel("FLOPs per byte of input, parameters and result")
    ax.set_ylabel("GFLOP/s")
    ax.grid(alpha=0.3, which="both", linewidth=0.5)
    images = f"{result.batch} image{'s' if result.batch > 1 else ''} of {result.size} x {result.size}"
    ax.set_title(
        f"{result.network}, {images}, {ceilings.threads} thread{'s' if ceilings.threads > 1 else ''}", fontsize=11
    )
    ax.legend(loc="lower right", fontsize=8)
    fig.canvas.draw()
    fig.set_layout_engine("none")
    _names(fig, ax, rows)
    return fig


def _dots(ax: Any, rows: list[Row], contender: str) -> None:
    total = sum(r.seconds for r in rows)
    for bound, colour in COLOURS.items():
        shown = [r for r in rows if r.bound == bound]
        style = {
            "marker": _MARKERS[contender],
            "color": colour,
            "alpha": 0.55,
            "linewidths": 0.8,
            "edgecolors": "#333333",
        }
        if shown:
            ax.scatter(
                [r.intensity for r in shown],
                [r.flops / r.seconds / 1e9 for r in shown],
                s=[_area(r, total) for r in shown],
                **style,
            )
            ax.scatter([], [], s=45, label=f"{contender}, bound by {bound}", **style)


def _area(row: Row, total: float) -> float:
    """Square points."""
    return 15 + 1200 * row.seconds / total


def _names(fig: Any, ax: Any, rows: list[Row]) -> None:
    """Of the first contender's layers that take the most time."""
    totals: dict[str, float] = {}
    for r in rows:
        totals[r.contender] = totals.get(r.contender, 0) + r.seconds
    first = next(iter(totals), "")
    points = [
        (r.intensity, r.flops / r.seconds / 1e9, r.layer if r.contender == first else "", _area(r, totals[r.contender]))
        for r in rows
    ]
    longest = sorted((r for r in rows if r.contender == first), key=lambda r: -r.seconds)[:_NAMED]
    place(fig, ax, points, [r.layer for r in longest])
