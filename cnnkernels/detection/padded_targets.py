"""The targets of a batch in one tensor, checked, on the network's device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cnnkernels.detection.types import Targets


@dataclass(frozen=True)
class PaddedTargets:
    """The objects of N images, K places for each; places without an object have label 0 and any box."""

    labels: Tensor
    """[N, K] int64: class ids."""
    boxes: Tensor
    """[N, K, 4]: x1, y1, x2, y2 in pixels of the input."""
    valid: Tensor
    """[N, K] bool: an object is here, with an area, and at least partly in the picture."""

    @property
    def centres(self) -> Tensor:
        """[N, K, 2]: x, y in pixels."""
        return (self.boxes[..., :2] + self.boxes[..., 2:]) / 2

    @property
    def sizes(self) -> Tensor:
        """[N, K, 2]: width, height in pixels."""
        return self.boxes[..., 2:] - self.boxes[..., :2]


def pad_targets(
    owner: str, targets: Targets, num_classes: int, images: int, size: Sequence[int], like: Tensor
) -> PaddedTargets:
    """``targets`` as one tensor, of the device and dtype of ``like``.

    owner: who asks, for messages.  images: how many there must be.  size: height, width of the network's input in pixels.

    A box without area, or wholly outside the picture, is left out: nothing can be assigned to it.
    ValueError, with the image's number: a shape that is not [K, 5], a number that is not finite, a class id that is not
    an integer from 0 to num_classes - 1.
    """
    if len(targets) != images or not images:
        raise ValueError(f"{owner}: targets must be one tensor per image, of {images} images, got {len(targets)}")
    for i, rows in enumerate(targets):
        if rows.dim() != 2 or rows.shape[1] != 5:
            raise ValueError(f"{owner}: targets of image {i} must be [K, 5], got {list(rows.shape)}")
    # Where the targets are: from a data loader that is the CPU, and the question costs no wait for the GPU.
    rows = torch.cat([rows.detach() for rows in targets])
    ids = rows[:, 0]
    if not bool((rows.isfinite().all(1) & (ids >= 0) & (ids < num_classes) & (ids == ids.floor())).all()):
        _explain(owner, targets, num_classes)
    padded = pad_sequence([rows.detach() for rows in targets], batch_first=True).to(like.device, like.dtype)
    counts = torch.tensor([len(rows) for rows in targets], device=like.device)
    x1, y1, x2, y2 = padded[..., 1:].unbind(-1)
    height, width = size
    inside = (x2 > x1) & (y2 > y1) & (x2 > 0) & (y2 > 0) & (x1 < width) & (y1 < height)
    present = torch.arange(padded.shape[1], device=like.device) < counts[:, None]
    return PaddedTargets(padded[..., 0].long(), padded[..., 1:], present & inside)


def _explain(owner: str, targets: Targets, num_classes: int) -> None:
    for i, rows in enumerate(targets):
        unusual = rows[~rows.isfinite().all(1)]
        if len(unusual):
            raise ValueError(f"{owner}: targets of image {i} must be finite, got {unusual[0].tolist()}")
        ids = rows[:, 0]
        unusual = ids[(ids < 0) | (ids >= num_classes) | (ids != ids.floor())]
        if len(unusual):
            raise ValueError(
                f"{owner}: class ids of image {i} must be integers from 0 to {num_classes - 1}, got {unusual[0].item():g}"
            )


def check_num_classes(owner: str, num_classes: int) -> int:
    """num_classes; ValueError below 1."""
    if num_classes < 1:
        raise ValueError(f"{owner}: num_classes must be at least 1, got {num_classes}")
    return num_classes
