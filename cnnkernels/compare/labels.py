"""Names beside the bubbles of a plot, each at a place where it covers no bubble and no other name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_OFFSETS = [(dx, dy) for r in (1.0, 2.0, 3.2, 4.6, 6.2) for dx, dy in (
    (0, r), (0, -r), (r, 0), (-r, 0), (r, r), (-r, r), (r, -r), (-r, -r), (r / 2, r), (-r / 2, r), (r / 2, -r), (-r / 2, -r)
)]  # fmt: skip


def place(
    fig: Any, ax: Any, points: Sequence[tuple[float, float, str, float]], named: Sequence[str] | None = None
) -> None:
    """Labels (x, y, name, area in square points) of a figure that is drawn and keeps its layout.

    named: the names to write, where not all; the other bubbles are kept clear as well.  Where no place is left, a bubble
    stays without.
    """
    from matplotlib.transforms import Bbox

    renderer = fig.canvas.get_renderer()
    scale = fig.dpi / 72
    taken = []
    for x, y, _, area in points:
        px, py = ax.transData.transform((x, y))
        radius = scale * math.sqrt(area / math.pi)
        taken.append(Bbox.from_bounds(px - radius, py - radius, 2 * radius, 2 * radius))
    inside = ax.get_window_extent(renderer)
    for x, y, name, area in sorted(points, key=lambda p: (p[0], p[1])):
        if named is not None and name not in named:
            continue
        px, py = ax.transData.transform((x, y))
        radius = scale * math.sqrt(area / math.pi)
        for dx, dy in _OFFSETS:
            reach = radius + 9 * scale
            at = ax.transData.inverted().transform((px + dx * reach * 1.2, py + dy * reach))
            text = ax.annotate(
                name,
                (x, y),
                xytext=at,
                fontsize=7.5,
                ha="center" if abs(dx) < 1 else ("left" if dx > 0 else "right"),
                va="center",
                arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0},
            )
            box = _text_box(text, renderer)
            free = not any(box.overlaps(other) for other in taken)
            within = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
            if free and within:
                taken.append(box)
                break
            text.remove()


def _text_box(text: Any, renderer: Any) -> Any:
    """Of the words alone, without the line to the bubble."""
    from matplotlib.text import Text

    text.update_positions(renderer)
    return Text.get_window_extent(text, renderer).padded(2)


def placed(fig: Any) -> list[list[tuple[str, Any]]]:
    """(text, box in pixels) of every label, per panel."""
    renderer = fig.canvas.get_renderer()
    return [[(t.get_text(), _text_box(t, renderer)) for t in ax.texts if t.get_text()] for ax in fig.axes]
