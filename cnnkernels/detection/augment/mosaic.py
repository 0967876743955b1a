"""Mosaic: four pictures in one (YOLOv4, Bochkovskiy et al. 2020, arXiv 2004.10934)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cnnkernels.detection.augment import warp
from cnnkernels.detection.augment.affine import RandomAffine
from cnnkernels.detection.sample import Sample


@dataclass(frozen=True)
class Mosaic:
    """``mosaic(four_samples, rng)``: they meet in one corner, at random, and a random part of that is the picture.

    As in YOLOv5: the corner lies in the middle half, each way, of a canvas twice as large as the result; each picture, scaled to
    fit the result, extends from the corner into its quarter; ``affine`` maps the canvas into the result, its middle
    onto the result's.  What no picture covers has ``affine``'s fill.  Each picture is sampled once, by the two maps
    composed, so there is no canvas, and nothing is lost at its rim.

    Boxes are cut where the result ends, and kept by the rule of ``warp.clip_boxes``.
    """

    size: tuple[int, int]
    """Height and width of the result."""
    affine: RandomAffine = field(default_factory=RandomAffine)

    def __call__(self, samples: Sequence[Sample], rng: np.random.Generator) -> Sample:
        """ValueError unless there are four samples."""
        if len(samples) != 4:
            raise ValueError(f"Mosaic: takes four samples, got {len(samples)}")
        height, width = self.size
        x, y = rng.uniform(0.5, 1.5) * width, rng.uniform(0.5, 1.5) * height
        # On whole pixels: neighbours neither overlap nor part when nothing is scaled.
        corner = warp.translation(round(x), round(y))
        view = self.affine.matrix(rng, (2 * height, 2 * width), self.size) @ corner
        image = warp.canvas(self.size, self.affine.fill)
        boxes, labels = [], []
        for index, sample in enumerate(samples):
            tall, wide = sample.image.shape[:2]
            fitted = warp.scaling(*[min(height / tall, width / wide)] * 2)
            # Above left, above right, below left, below right of the corner.
            at_corner = warp.translation(0 if index % 2 else -wide, 0 if index // 2 else -tall)
            matrix = view @ fitted @ at_corner
            warp.draw(image, sample.image, matrix)
            boxes.append(warp.map_boxes(sample.boxes, matrix))
            labels.append(sample.labels)
        return Sample(image, *warp.clip_boxes(np.concatenate(boxes), np.concatenate(labels), self.size))
