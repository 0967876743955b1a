"""Boxes with names and scores drawn onto a picture."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnkernels.detection.sample import Image
from cnnkernels.detection.types import Detections


def colour(label: int) -> tuple[int, int, int]:
    """A class's colour: hues a golden ratio of the circle apart, so that the first dozens differ."""
    red, green, blue = colorsys.hsv_to_rgb((label * 0.618034) % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_detections(image: Image, found: Detections, names: Sequence[str]) -> Image:
    """A copy of ``image`` (uint8 [H, W, 3]) with every box, its class and its score in per cent.

    Lines and letters grow with the picture; the highest score is drawn last, on top.  ImportError without Pillow.
    """
    from cnnkernels.detection import _pillow as pillow

    canvas = pillow.Image.fromarray(image)
    draw = pillow.ImageDraw.Draw(canvas)
    side = max(image.shape[:2])
    width = max(round(side / 320), 1)
    font = pillow.ImageFont.load_default(max(side / 45, 10))
    rows = list(zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True))
    for box, score, label in reversed(rows):
        _draw_one(draw, box, f"{names[label]} {score:.0%}", colour(label), width, font, image.shape[:2])
    return np.asarray(canvas)


def _draw_one(
    draw: Any,
    box: list[float],
    text: str,
    fill: tuple[int, int, int],
    width: int,
    font: Any,
    size: tuple[int, ...],
) -> None:
    x1, y1, x2, y2 = box
    draw.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=fill, width=width)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    w, h = right - left + 2 * width, bottom - top + 2 * width
    x = min(max(x1, 0), max(size[1] - w, 0))
    y = y1 - h if y1 >= h else y1  # above the box, or inside where there is no room
    draw.rectangle((x, y, x + w, y + h), fill=fill)
    dark = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2] < 140
    draw.text((x + width - left, y + width - top), text, fill=(255, 255, 255) if dark else (0, 0, 0), font=font)
