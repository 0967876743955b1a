"""The loss of YOLOX without NMS: Ge et al. 2021, arXiv:2107.08430, section 2.2, after Zhou, Yu, Shen 2021,
arXiv:2101.11782."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cnnkernels.detection.anchor_free import AnchorFree
from cnnkernels.detection.focal_loss import focal_loss
from cnnkernels.detection.one_to_one import OneToOne
from cnnkernels.detection.padded_targets import PaddedTargets
from cnnkernels.detection.types import Targets
from cnnkernels.detection.yolox_loss import YOLOXLoss


class EndToEndLoss(YOLOXLoss):
    """``YOLOXLoss`` with its many predictions for an object, and for the selector, with P objects that have a prediction:

        selector   1 / P * sum over all predictions and classes of the focal loss of
                   selector * objectness * class score, where 1 is wanted of the one prediction of an object, for its class

    Objectness and class scores are constants there: the selector learns to choose among what the head says anyway.

    Arguments as of ``YOLOXLoss``, for the head.  raw: logits [N, 5 + num_classes + 1, H, W] for each stride, the selector's
    last.  Returns "selector" beside the parts of ``YOLOXLoss``.
    """

    one_to_one = OneToOne()

    def forward(self, raw: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        with torch.autocast(raw[0].device.type, enabled=False):
            predictions, padded = self._read([level[:, :-1] for level in raw], targets)
            parts = self._parts(predictions, padded, self.assigner(predictions, padded))
            logits = torch.cat([level[:, -1].flatten(1) for level in raw], dim=1).to(predictions.codes.dtype)
            selector = self._selector_loss(logits, predictions, padded)
            return {**parts, "loss": parts["loss"] + selector, "selector": selector}

    def _selector_loss(self, logits: Tensor, predictions: AnchorFree, targets: PaddedTargets) -> Tensor:
        said = (predictions.classes.sigmoid() * predictions.objectness.sigmoid()[:, None]).detach()
        scores = said * logits.sigmoid()[:, None]  # [N, C, A]
        matches = self.one_to_one.match(scores, predictions, targets)
        wanted = torch.zeros_like(scores)
        wanted[matches.image, targets.labels[matches.image, matches.target], matches.candidate] = 1
        return focal_loss(scores, wanted).sum() / max(len(matches), 1)
