"""Published accuracy over multiply-adds and over measured latency; the area of a bubble is the number of parameters.

And the blocks of a preset as bars.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cnnkernels._files import write_whole
from cnnkernels.compare.labels import place
from cnnkernels.compare.measure import Row

if TYPE_CHECKING:
    from cnnkernels.compare.presets import Table

_AREA_PER_MILLION = 5.0  # square points


def pyplot(option: str = "--plot") -> Any:
    """matplotlib, drawing to files; ImportError, naming the option that needs it, where it is missing."""
    try:
        import matplotlib
    except ImportError:
        raise ImportError(f"{option} needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def check(path: str, option: str = "--plot") -> None:
    """Whether a plot can be written there: ValueError for a suffix, ImportError where matplotlib is missing."""
    if not path.endswith((".png", ".svg", ".pdf")):
        raise ValueError(f"{option} {path}: the name must end in .png, .svg or .pdf")
    pyplot(option)


def figure(rows: Sequence[Row]) -> Any:
    """The matplotlib figure; networks without published accuracy are left out.  Of several batches the first."""
    plt = pyplot()
    batch = min((r.batch for r in rows), default=1)
    shown = [r for r in rows if r.top1 is not None and r.batch == batch]
    if not shown:
        raise ValueError("nothing to plot: none of these networks has a published accuracy on record")
    timed = [r for r in shown if r.fused_ms is not None]
    panels: list[tuple[str, Callable[[Row], float], list[Row]]] = [
        ("multiply-adds of one image, 10$^9$", lambda r: r.macs / 1e9, shown)
    ]
    if timed:
        panels.append((f"latency, ms (batch {batch}, fused ops)", lambda r: float(r.fused_ms or 0), timed))
    fig, axes = plt.subplots(len(panels), 1, figsize=(11, 7.5 * len(panels)), squeeze=False, layout="constrained")
    families = sorted({r.family for r in shown})
    palette = [plt.get_cmap(name)(i) for name in ("tab20", "tab20b", "tab20c") for i in range(20)]
    colours = {f: palette[i % len(palette)] for i, f in enumerate(families)}
    for ax, (title, value, points) in zip(axes[:, 0], panels, strict=True):
        areas = [_AREA_PER_MILLION * r.parameters / 1e6 for r in points]
        ax.scatter(
            [value(r) for r in points],
            [r.top1 for r in points],
            s=areas,
            c=[colours[r.family] for r in points],
            alpha=0.55,
            linewidths=0.8,
            edgecolors="#444444",
        )
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(_number)
        ax.xaxis.set_minor_formatter(_number)
        ax.margins(0.14)
        ax.grid(alpha=0.3, which="both", linewidth=0.5)
        ax.set_xlabel(title)
        ax.set_ylabel("published top-1 accuracy, %")
    for millions in (1, 10, 50, 100):
        ax.scatter([], [], s=_AREA_PER_MILLION * millions, c="#bbbbbb", edgecolors="#444444", label=f"{millions} M")
    fig.legend(title="parameters", loc="outside right upper", labelspacing=1.4, borderpad=1.0)
    marks = [ax.scatter([], [], s=40, color=colours[f], alpha=0.55, edgecolors="#444444") for f in families]
    fig.legend(marks, families, title="family", loc="outside right lower", fontsize=8)
    fig.canvas.draw()
    fig.set_layout_engine("none")
    for ax, (_, value, points) in zip(axes[:, 0], panels, strict=True):
        place(fig, ax, [(value(r), float(r.top1 or 0), r.name, _AREA_PER_MILLION * r.parameters / 1e6) for r in points])
    return fig


def _number(value: float, position: int | None = None) -> str:
    """Of a logarithmic axis: 0.2, 3, 20; only the first digits between which there is room."""
    return f"{value:g}" if f"{value:e}"[0] in "1235" else ""


def bars(tables: Sequence[Table]) -> Any:
    """The matplotlib figure of measured blocks: images per second, eager and fused, a panel per table."""
    plt = pyplot()
    if not all(r.eager and r.fused for t in tables for r in t.rows):
        raise ValueError("nothing to plot: the blocks were not timed")
    heights = [len(t.rows) + 2.0 for t in tables]
    fig, axes = plt.subplots(
        len(tables), 1, figsize=(9, 0.42 * sum(heights)), squeeze=False, layout="constrained", height_ratios=heights
    )
    for ax, table in zip(axes[:, 0], tables, strict=True):
        for offset, kind, colour in ((-0.2, "eager", "#b0b0b0"), (0.2, "fused", "#3b75af")):
            rates = [table.batch / getattr(r, kind) for r in table.rows]
            at = ax.barh([i + offset for i in range(len(rates))], rates, 0.38, color=colour, label=kind)
            ax.bar_label(at, [f"{rate:,.0f}" for rate in rates], padding=3, fontsize=8)
        ax.set_yticks(range(len(table.rows)), [r.name for r in table.rows], fontsize=9)
        ax.invert_yaxis()
        ax.margins(x=0.12)
        ax.set_title(caption(table), fontsize=10, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("images per second")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    return fig


def caption(table: Table) -> str:
    """What was measured, and what it is an example of."""
    return f"{table.title}\n{table.verdict.splitlines()[0]}"


def write_plot(path: str | os.PathLike[str], fig: Any) -> None:
    out = io.BytesIO()
    form = os.fspath(path).rpartition(".")[2]
    fig.savefig(out, format=form, dpi=110)
    write_whole(path, out.getvalue())
