"""Random scale, shift, rotation, shear and mirroring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cnnkernels.detection.augment import warp
from cnnkernels.detection.augment.warp import Matrix
from cnnkernels.detection.sample import Sample


@dataclass(frozen=True)
class RandomAffine:
    """``affine(sample, rng)``: the picture mapped at random, boxes with it.  The defaults are YOLOv5's.

    The map turns and scales about the picture's middle, shears, moves, and mirrors; see ``warp`` for what becomes of
    boxes at the edge, and of boxes that are turned.
    """

    degrees: float = 0.0
    """Turned by up to so much, either way."""
    translate: float = 0.1
    """Moved by up to this share of the width and of the height, either way."""
    scale: tuple[float, float] = (0.5, 1.5)
    """Least and largest factor."""
    shear: float = 0.0
    """Degrees, up to, either way, along each axis."""
    flip: float = 0.5
    """Probability of being mirrored left to right."""
    fill: int = 114

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"RandomAffine: scale must be two rising positive factors, got {self.scale}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"RandomAffine: flip must be from 0 to 1, got {self.flip}")

    def matrix(self, rng: np.random.Generator, source: tuple[int, int], size: tuple[int, int]) -> Matrix:
        """A random map from a picture of size ``source`` (height, width) into one of ``size``, middle to middle."""
        centred = warp.translation(-source[1] / 2, -source[0] / 2)
        turned = warp.rotation(rng.uniform(-1, 1) * self.degrees)
        scaled = warp.scaling(*[rng.uniform(*self.scale)] * 2)
        sheared = warp.shear(*(rng.uniform(-1, 1, 2) * self.shear).tolist())
        mirrored = warp.scaling(-1.0 if rng.random() < self.flip else 1.0, 1.0)
        x, y = (0.5 + rng.uniform(-1, 1, 2) * self.translate) * (size[1], size[0])
        return warp.translation(x, y) @ mirrored @ sheared @ scaled @ turned @ centred

    def __call__(self, sample: Sample, rng: np.random.Generator, size: tuple[int, int] | None = None) -> Sample:
        """size: (height, width) of the result; the picture's own unless given."""
        source = (sample.image.shape[0], sample.image.shape[1])
        size = size or source
        return warp.warp(sample, self.matrix(rng, source, size), size, self.fill)
