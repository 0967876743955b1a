"""Anchors that fit the data: how well given ones do, and better ones by k-means and mutation (YOLOv5's autoanchor)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Sides = NDArray[np.float64]
"""[K, 2]: width and height, in pixels of the network's input."""

SMALLEST = 2.0
"""Pixels; boxes with a shorter side do not count."""
GOOD_ENOUGH = 0.98
"""A recall from which anchors are left as they are."""


def fit_of(sides: Sides, anchors: Sides) -> Sides:
    """[K, A]: the smaller of the two ratios of sides, each at most 1: 1 is the same size, below 1/4 no match."""
    ratio = sides[:, None] / anchors[None]
    fit: Sides = np.minimum(ratio, 1 / ratio).min(axis=2)
    return fit


def best_possible_recall(sides: ArrayLike, anchors: ArrayLike, ratio: float = 4.0) -> float:
    """Share of boxes [K, 2] that some anchor [A, 2] matches: both sides within a factor of ``ratio``.

    ValueError without boxes or anchors, or if one has a side that is not positive and finite.
    """
    best = fit_of(_checked("sides", sides), _checked("anchors", anchors)).max(axis=1)
    return float((best > 1 / ratio).mean())


def fitness(sides: Sides, anchors: Sides, ratio: float = 4.0) -> float:
    """Mean over boxes of the best fit, counted as 0 where it is no match: what mutation makes larger."""
    best = fit_of(sides, anchors).max(axis=1)
    return float((best * (best > 1 / ratio)).mean())


def k_means(sides: Sides, count: int, rng: np.random.Generator, rounds: int = 30) -> Sides:
    """[count, 2]: centres of the boxes, each axis divided by its deviation; the first ones far apart (k-means++).

    ValueError if there are fewer different boxes than centres.
    """
    if len(np.unique(sides, axis=0)) < count:
        raise ValueError(f"k_means: {count} anchors need as many different boxes, got {len(np.unique(sides, axis=0))}")
    deviation = np.where(sides.std(axis=0) > 0, sides.std(axis=0), 1.0)
    points = sides / deviation
    centres = points[rng.integers(len(points))][None]
    while len(centres) < count:
        distance = _squared(points, centres).min(axis=1)
        chosen = points[rng.choice(len(points), p=distance / distance.sum())]
        centres = np.concatenate([centres, chosen[None]])
    for _ in range(rounds):
        nearest = _squared(points, centres).argmin(axis=1)
        sizes = np.bincount(nearest, minlength=count)[:, None]
        sums = np.stack([np.bincount(nearest, points[:, axis], count) for axis in (0, 1)], axis=1)
        moved = np.where(sizes > 0, sums / np.maximum(sizes, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres * deviation


def _squared(points: Sides, centres: Sides) -> Sides:
    squared: Sides = ((points[:, None] - centres[None]) ** 2).sum(axis=2)
    return squared


def fit_anchors(
    sides: ArrayLike, count: int = 9, *, ratio: float = 4.0, generations: int = 1000, seed: int = 0
) -> Sides:
    """[count, 2] anchors by rising area: k-means, then ``generations`` of mutation, each kept if ``fitness`` rises.

    A mutation multiplies each side, with probability 0.9, by 1 plus a normal number of deviation 0.1 times a random
    amount, within 0.3 to 3.  The same seed gives the same anchors.

    ValueError as ``best_possible_recall`` and ``k_means``.
    """
    rng = np.random.default_rng(seed)
    boxes = _large(_checked("sides", sides))
    anchors = k_means(boxes, count, rng)
    best = fitness(boxes, anchors, ratio)
    for _ in range(generations):
        factors = np.ones_like(anchors)
        while (factors == 1).all():
            changed = rng.random(anchors.shape) < 0.9
            factors = (changed * rng.random() * rng.normal(size=anchors.shape) * 0.1 + 1).clip(0.3, 3.0)
        mutated = (anchors * factors).clip(min=SMALLEST)
        if (found := fitness(boxes, mutated, ratio)) > best:
            anchors, best = mutated, found
    return anchors[np.argsort(anchors.prod(axis=1), kind="stable")]


@dataclass(frozen=True)
class AnchorChoice:
    """Which anchors to use, and what the old and the new ones reach."""

    anchors: list[list[tuple[float, float]]]
    """One list of (width, height) per level, in pixels of the input."""
    changed: bool
    recall_before: float
    recall: float


def choose_anchors(
    sides: ArrayLike,
    anchors: Sequence[Sequence[tuple[float, float]]],
    *,
    ratio: float = 4.0,
    generations: int = 1000,
    seed: int = 0,
) -> AnchorChoice:
    """``anchors`` if they match 98 % of the boxes; else fitted ones, if those match more.

    anchors: one list of (width, height) per level, in pixels of the input, as ``model.anchors``.
    sides: [K, 2], width and height of the boxes in pixels of the input: ``CocoData.sides()`` times its size.

    New anchors go to the levels by area, smallest where the old ones were smallest, as many as each had.
    ValueError as ``fit_anchors``.
    """
    boxes = _large(_checked("sides", sides))
    old = _checked("anchors", [pair for level in anchors for pair in level])
    before = best_possible_recall(boxes, old, ratio)
    kept = AnchorChoice([[(float(w), float(h)) for w, h in level] for level in anchors], False, before, before)
    if before >= GOOD_ENOUGH:
        return kept
    fitted = fit_anchors(boxes, len(old), ratio=ratio, generations=generations, seed=seed)
    recall = best_possible_recall(boxes, fitted, ratio)
    if recall <= before:
        return kept
    order = np.argsort([np.prod(level, axis=1).mean() for level in anchors], kind="stable")
    levels: list[list[tuple[float, float]]] = [[] for _ in anchors]
    taken = 0
    for level in order.tolist():
        size = len(anchors[level])
        levels[level] = [(float(w), float(h)) for w, h in fitted[taken : taken + size]]
        taken += size
    return AnchorChoice(levels, True, before, recall)


def _checked(name: str, pairs: ArrayLike) -> Sides:
    values = np.asarray(pairs, np.float64)
    if values.ndim != 2 or values.shape[1] != 2 or not len(values):
        raise ValueError(f"auto_anchor: {name} must be [K, 2] with K > 0, got {list(values.shape)}")
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"auto_anchor: {name} must be positive and finite")
    return values


def _large(sides: Sides) -> Sides:
    large = sides[(sides >= SMALLEST).all(axis=1)]
    if not len(large):
        raise ValueError(f"auto_anchor: no box has both sides of {SMALLEST:g} pixels or more")
    return large
