"""What an assignment of predictions to objects is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Matches:
    """P predictions that stand for an object each, by rising image and candidate."""

    image: Tensor
    """[P] int64: which image of the batch."""
    candidate: Tensor
    """[P] int64: which of the image's predictions, in the order of the levels."""
    target: Tensor
    """[P] int64: which of the image's objects."""
    overlap: Tensor
    """[P]: IoU of the prediction (where an anchor is assigned, of the anchor) with the object."""

    @classmethod
    def none(cls, like: Tensor) -> Matches:
        """No match; ``overlap`` has the dtype of ``like``."""
        ids = torch.zeros(0, dtype=torch.int64, device=like.device)
        return cls(ids, ids, ids, like.new_zeros(0))

    def __len__(self) -> int:
        return len(self.image)
