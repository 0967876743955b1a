"""A report as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnnkernels.compare.plot import pyplot

if TYPE_CHECKING:
    from cnnkernels.optimize.report import Report

_MOST_BARS = 40


def figure(report: Report) -> Any:
    """Bars of the regions' times before and after, the longest first; the whole network's in the title."""
    plt = pyplot()
    timed = [e for e in report.swapped if e.before_ms is not None and e.after_ms is not None]
    shown = sorted(timed, key=lambda e: -(e.before_ms or 0))[:_MOST_BARS]
    fig, ax = plt.subplots(figsize=(9, 1.8 + 0.28 * max(len(shown), 1)), layout="constrained")
    before, after = ([getattr(e, name) for e in shown] for name in ("before_ms", "after_ms"))
    rows = range(len(shown))
    ax.barh([i - 0.2 for i in rows], before, 0.4, label="the network's modules", color="#9aa5b1")
    ax.barh([i + 0.2 for i in rows], after, 0.4, label="fused", color="#1f77b4")
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        ax.text(max(old, new), i, f" {old / new:.1f}x", va="center", fontsize=8)
    ax.set_yticks(list(rows), [f"{e.name} ({e.kind})" for e in shown], fontsize=8)
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.set_xlabel("ms")
    ax.legend(loc="lower right")
    lines = [f"{report.model}, {report.mode}, {report.example}"]
    if report.speedup is not None:
        before_text = f"{report.before_ms:.2f} ms ({report.before_layout}) before"
        lines.append(f"{before_text}, {report.after_ms:.2f} ms after: {report.speedup:.2f}x")
    if len(timed) > len(shown):
        lines.append(f"the {len(shown)} longest of {len(timed)} regions")
    ax.set_title("\n".join(lines), fontsize=10)
    return fig
