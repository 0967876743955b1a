"""Class label smoothing: Szegedy et al. 2016, arXiv:1512.00567, for classes that exclude nothing."""

from __future__ import annotations

import torch
from torch import Tensor


def smoothed_one_hot(labels: Tensor, num_classes: int, smoothing: float, dtype: torch.dtype) -> Tensor:
    """[P, num_classes] of the class ids ``labels`` [P]: 1 - smoothing / 2 for the object's class, else smoothing / 2.

    Each class has a sigmoid of its own (YOLOv4, YOLOv5), so that "yes" and "no" are what is smoothed.
    """
    scores = torch.full((len(labels), num_classes), smoothing / 2, dtype=dtype, device=labels.device)
    return scores.scatter_(1, labels[:, None], 1 - smoothing / 2)


def check_smoothing(owner: str, smoothing: float) -> float:
    """smoothing; ValueError where it is not from 0 to 1."""
    if not 0 <= smoothing <= 1:
        raise ValueError(f"{owner}: label_smoothing must be from 0 to 1, got {smoothing}")
    return smoothing
