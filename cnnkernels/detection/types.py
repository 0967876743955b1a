"""What goes into a detector's loss and what comes out of a detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

Targets = list[Tensor]
"""One tensor [K, 5] per image: class id, x1, y1, x2, y2 in pixels of the network's input; K may be 0."""


@dataclass(frozen=True)
class Detections:
    """The objects found in one picture, by falling score."""

    boxes: Tensor
    """[K, 4] float32: x1, y1, x2, y2 in pixels of the original picture, inside it."""
    scores: Tensor
    """[K] float32, 0 to 1."""
    labels: Tensor
    """[K] int64: class ids."""

    def __len__(self) -> int:
        return len(self.scores)

    def as_dicts(self, names: list[str] | None = None) -> list[dict[str, Any]]:
        """One dictionary per object, ready for JSON: label, name (where names are given), score, box."""
        rows = zip(self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)
        return [
            {"label": label, **({} if names is None else {"name": names[label]}), "score": score, "box": box}
            for label, score, box in rows
        ]
