"""A picture with its objects, as data sets give and augmentations take it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[np.uint8]
"""[H, W, 3], red, green, blue."""


class Sample(NamedTuple):
    """One picture and what is in it."""

    image: Image
    boxes: NDArray[np.float32]
    """[K, 4]: x1, y1, x2, y2 in pixels; a box ends where the next pixel begins, so x2 - x1 is its width."""
    labels: NDArray[np.int64]
    """[K]: class ids."""

    def target(self) -> Tensor:
        """[K, 5] float32, as losses take it: class id, x1, y1, x2, y2."""
        return torch.from_numpy(np.concatenate([self.labels[:, None], self.boxes], axis=1, dtype=np.float32))
