"""The things in synthetic scenes: five shapes that are drawn, three things cut out of photographs."""

from __future__ import annotations

import colorsys
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnkernels.detection._pillow import Image as Pillow
from cnnkernels.detection._pillow import ImageDraw
from cnnkernels.detection.data.photographs import COINS, CUP, FACE, photograph
from cnnkernels.detection.sample import Image

CLASSES = ("circle", "square", "triangle", "star", "ring", "coin", "cup", "face")

SUPERSAMPLING = 4
"""Outlines are drawn this many times larger, and averaged."""
TILT = {"circle": 0.0, "ring": 0.0, "cup": 25.0, "face": 20.0}
"""Degrees that a thing is turned by at most, either way; 180 unless listed."""

Points = NDArray[np.float64]


class Patch(NamedTuple):
    """A thing ready to be pasted."""

    image: Image
    alpha: NDArray[np.float32]
    """[h, w], 0 to 1; from a half on a pixel belongs to the thing."""


def draw(label: int, size: float, rng: np.random.Generator) -> Patch:
    """The thing of class ``CLASSES[label]``, its longer side ``size`` pixels before it is turned."""
    name = CLASSES[label]
    angle = rng.uniform(-1, 1) * TILT.get(name, 180.0)
    brightness = rng.uniform(0.7, 1.15)
    if name in ("coin", "cup", "face"):
        cut = _cut_out(name, int(rng.integers(len(COINS))) if name == "coin" else 0)
        return _turned(cut, size, angle, bool(rng.random() < 0.5), brightness)
    alpha = _outline(name, size, math.radians(angle))
    return Patch(_paint(alpha.shape, rng), alpha)


def _outline(name: str, size: float, angle: float) -> NDArray[np.float32]:
    """Coverage [h, w] of a shape, turned by ``angle`` radians, two pixels of room around it."""
    if name in ("circle", "ring"):
        points = _regular(64)
    else:
        points = {"square": _regular(4), "triangle": _regular(3), "star": _star()}[name]
    cos, sin = math.cos(angle), math.sin(angle)
    points = points / np.ptp(points, axis=0).max() * size
    turned = points @ np.array([[cos, sin], [-sin, cos]])
    width, height = (np.ceil(np.ptp(turned, axis=0)) + 4).astype(int)
    outer = turned - turned.min(axis=0) + 2
    polygons = [outer, _shrunk(outer, 0.58)] if name == "ring" else [outer]
    return _coverage(polygons, int(width), int(height))


def _regular(corners: int) -> Points:
    turns = 2 * np.pi * (np.arange(corners) + 0.5) / corners
    return np.stack([np.sin(turns), np.cos(turns)], axis=1)


def _star() -> Points:
    turns = 2 * np.pi * np.arange(10) / 10
    return np.stack([np.sin(turns), -np.cos(turns)], axis=1) * np.where(np.arange(10) % 2, 0.45, 1.0)[:, None]


def _shrunk(points: Points, factor: float) -> Points:
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    return middle + (points - middle) * factor


def _coverage(polygons: Sequence[Points], width: int, height: int) -> NDArray[np.float32]:
    """Share of each pixel inside the first polygon and outside the others."""
    k = SUPERSAMPLING
    canvas = Pillow.new("L", (width * k, height * k), 0)
    pen = ImageDraw.Draw(canvas)
    for polygon, value in zip(polygons, (255, 0), strict=False):
        pen.polygon([(x * k - 0.5, y * k - 0.5) for x, y in polygon.tolist()], fill=value)
    fine = np.asarray(canvas, np.float32).reshape(height, k, width, k)
    return fine.mean(axis=(1, 3)) / 255


def _paint(shape: tuple[int, ...], rng: np.random.Generator) -> Image:
    """A colour, lighter on one side than on the other, a little grain in it."""
    height, width = shape
    colour = np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.45, 1.0), rng.uniform(0.55, 1.0)))
    direction = rng.uniform(0, 2 * np.pi)
    ys, xs = np.mgrid[0:height, 0:width]
    along = (xs / width - 0.5) * np.cos(direction) + (ys / height - 0.5) * np.sin(direction)
    light = 1 + along * rng.uniform(0.0, 0.7) + rng.normal(0, 0.02, (height, width))
    return (255 * colour * light[..., None]).clip(0, 255).astype(np.uint8)


@functools.cache
def _cut_out(name: str, index: int) -> Pillow.Image:
    """RGBA, trimmed to the thing."""
    if name == "coin":
        x1, y1, x2, y2 = COINS[index]
        ellipse = (_regular(64) / 2 + 0.5) * (x2 - x1, y2 - y1) + (x1, y1)
        outline, source = ellipse, "coins"
    else:
        outline = np.array(CUP if name == "cup" else FACE, np.float64)
        source = "coffee" if name == "cup" else "astronaut"
    left, top = (int(v) for v in outline.min(axis=0))
    right, bottom = (int(v) for v in np.ceil(outline.max(axis=0)))
    alpha = _coverage([outline - (left, top)], right - left, bottom - top)
    pixels = photograph(source)[top:bottom, left:right]
    return Pillow.fromarray(np.dstack([pixels, np.round(alpha * 255).astype(np.uint8)]))


def _turned(cut: Pillow.Image, size: float, angle: float, mirrored: bool, brightness: float) -> Patch:
    scale = size / max(cut.size)
    width, height = (max(round(side * scale), 1) for side in cut.size)
    scaled = cut.resize((width, height), Pillow.Resampling.BOX if scale < 1 else Pillow.Resampling.BILINEAR)
    if mirrored:
        scaled = scaled.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(scaled.rotate(angle, Pillow.Resampling.BILINEAR, expand=True), np.float32)
    return Patch((pixels[..., :3] * brightness).clip(0, 255).astype(np.uint8), pixels[..., 3] / np.float32(255))
