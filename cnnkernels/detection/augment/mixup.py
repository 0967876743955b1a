"""MixUp for detection: two pictures seen through each other, the objects of both (Zhang et al. 2017, arXiv 1710.09412)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cnnkernels.detection.augment import warp
from cnnkernels.detection.sample import Image, Sample


@dataclass(frozen=True)
class MixUp:
    """``mixup(first, second, rng)`` as YOLOv5 has it: blended by a share from Beta(alpha, alpha), mostly near a half."""

    alpha: float = 32.0

    def __call__(self, first: Sample, second: Sample, rng: np.random.Generator) -> Sample:
        """ValueError unless both pictures have one size."""
        if first.image.shape != second.image.shape:
            raise ValueError(f"MixUp: pictures of one size, got {first.image.shape} and {second.image.shape}")
        return _mixed(first, second, rng.beta(self.alpha, self.alpha))


@dataclass(frozen=True)
class YoloxMixUp:
    """``mixup(first, second, rng)`` as YOLOX has it (Ge et al. 2021, arXiv 2107.08430): half of each, the second jittered.

    The second picture is scaled to fit the first, then by a factor from ``jitter``, and mirrored half of the time.
    Where it is larger than the first, a random part shows; where it is smaller it lies at the upper left, grey beside
    it.
    """

    jitter: tuple[float, float] = (0.5, 1.5)
    flip: float = 0.5
    fill: int = 114

    def __call__(self, first: Sample, second: Sample, rng: np.random.Generator) -> Sample:
        size = (first.image.shape[0], first.image.shape[1])
        tall, wide = second.image.shape[:2]
        scale = min(size[0] / tall, size[1] / wide) * rng.uniform(*self.jitter)
        mirrored = warp.translation(wide, 0) @ warp.scaling(-1, 1) if rng.random() < self.flip else np.eye(3)
        x, y = (rng.uniform(0, max(side * scale - room, 0)) for side, room in ((wide, size[1]), (tall, size[0])))
        matrix = warp.translation(-round(x), -round(y)) @ warp.scaling(scale, scale) @ mirrored
        return _mixed(first, warp.warp(second, matrix, size, self.fill), 0.5)


def _mixed(first: Sample, second: Sample, share: float) -> Sample:
    """``share`` of the first picture, the rest of the second, the boxes of both."""
    boxes = np.concatenate([first.boxes, second.boxes])
    return Sample(_blend(first.image, second.image, share), boxes, np.concatenate([first.labels, second.labels]))


def _blend(first: Image, second: Image, share: float) -> Image:
    blend = first * np.float32(share) + second * np.float32(1 - share)
    return (blend + np.float32(0.5)).astype(np.uint8)
