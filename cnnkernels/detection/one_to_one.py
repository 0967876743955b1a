"""One prediction for each object, so that nothing is left for NMS to remove: POTO.

Wang, Song, Li, Sun, Sun, Zheng 2021, "End-to-End Object Detection with Fully Convolutional Network" (DeFCN),
arXiv:2012.03544, section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cnnkernels import _boxes
from cnnkernels.detection.anchor_free import AnchorFree
from cnnkernels.detection.assignment import Matches
from cnnkernels.detection.linear_assignment import assign_rows
from cnnkernels.detection.padded_targets import PaddedTargets


@dataclass(frozen=True)
class OneToOne:
    """Of all ways to give each object of an image a prediction of its own the one with the largest sum of

        quality = score^(1 - alpha) * IoU^alpha

    where score is that of the object's class, and the prediction's cell has its centre inside the object's box or holds the
    box's centre (the paper has the first only, which leaves boxes between the cells' centres to chance).  As in the paper
    that is the exact optimum (the Hungarian method), not a greedy choice; an object for which no prediction is left has none.
    """

    alpha: float = 0.8

    @torch.no_grad()
    def __call__(self, predictions: AnchorFree, targets: PaddedTargets) -> Matches:
        """score = objectness * class score."""
        scores = predictions.classes.sigmoid() * predictions.objectness.sigmoid()[:, None]
        return self.match(scores, predictions, targets)

    @torch.no_grad()
    def match(self, scores: Tensor, predictions: AnchorFree, targets: PaddedTargets) -> Matches:
        """scores: [N, C, A], 0 to 1."""
        if not targets.labels.shape[1]:
            return Matches.none(predictions.codes)
        of_class = scores.gather(1, targets.labels[:, :, None].expand(-1, -1, scores.shape[2]))  # [N, K, A]
        overlap = _boxes.overlap(targets.boxes[:, :, None], predictions.boxes()[:, None], "iou")
        quality = (of_class ** (1 - self.alpha) * overlap**self.alpha).nan_to_num(0)
        quality = quality.masked_fill(~self._allowed(predictions, targets), -1)
        image, target, candidate = (ids.to(scores.device) for ids in _optimum(quality))
        return Matches(image, candidate, target, overlap[image, target, candidate])

    @staticmethod
    def _allowed(predictions: AnchorFree, targets: PaddedTargets) -> Tensor:
        """[N, K, A]: may the prediction stand for the object?"""
        distance = (predictions.centres - targets.centres[:, :, None]).abs()
        inside = (distance < targets.sizes[:, :, None] / 2).all(-1)
        holds = (distance <= predictions.strides / 2).all(-1)
        return (inside | holds) & targets.valid[:, :, None]


def _optimum(quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Image, row and column of the pairs of largest total quality; below 0 it forbids a pair.  By rising image and column."""
    _, rows, columns = quality.shape
    # An optimum needs no more than a row's best columns, as many as there are rows: one of them is always free.
    best = quality.topk(min(rows, columns), dim=2)
    values, places = best.values.double().cpu().numpy(), best.indices.cpu().numpy()
    found = [np.zeros((3, 0), np.int64)]
    for i in range(len(values)):
        used, place = np.unique(places[i], return_inverse=True)
        # Forbidden pairs, and a column for each row that stays alone: first as many pairs as possible, then the quality.
        cost = np.full((rows, len(used) + rows), 2.0 * rows)
        row = np.arange(rows)[:, None]
        cost[row, place.reshape(values[i].shape)] = np.where(values[i] < 0, 2.0 * rows, -values[i])
        column = assign_rows(cost)
        pairs = np.flatnonzero(cost[np.arange(rows), column] < rows)
        pairs = pairs[np.argsort(column[pairs])]
        found.append(np.stack((np.full(len(pairs), i), pairs, used[column[pairs]])))
    image, row, column = torch.from_numpy(np.concatenate(found, axis=1))
    return image, row, column
