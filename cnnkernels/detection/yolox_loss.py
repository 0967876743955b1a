"""The loss of YOLOX: Ge et al. 2021, arXiv:2107.08430, as in the authors' repository."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from cnnkernels.detection.anchor_free import AnchorFree
from cnnkernels.detection.assignment import Matches
from cnnkernels.detection.padded_targets import PaddedTargets, check_num_classes, pad_targets
from cnnkernels.detection.simota import SimOTA
from cnnkernels.detection.types import Targets
from cnnkernels.ops.box_iou_loss import box_iou_loss

Assigner = Callable[[AnchorFree, PaddedTargets], Matches]

BOX_LOSSES = ("iou2", "iou", "giou", "diou", "ciou")


class YOLOXLoss(nn.Module):
    """Of an assignment with F foreground predictions in the batch (F at least 1):

        box   5 / F * sum over the foreground of 1 - IoU^2
        obj   1 / F * sum over all predictions of BCE(objectness, is foreground)
        cls   1 / F * sum over the foreground and all classes of BCE(class, IoU for the object's class, else 0)
        l1    1 / F * sum over the foreground of |code - the object's code|; with ``use_l1``, else 0

    strides: pixels, of the levels.  iou_kind: "iou2" as above, or 1 - overlap of the kind iou, giou, diou, ciou.
    assigner: which predictions stand for which object: ``SimOTA()``, ``MultiPositives()``, ``OneToOne()``.
    use_l1: an attribute; the authors switch it on for the last 15 epochs, when Mosaic and MixUp are off.

    ``loss(raw, targets)``, raw: logits [N, 5 + num_classes, H, W] for each stride, any floating-point type (the loss is
    computed in float32, float64 stays), targets as in ``cnnkernels.detection.Targets``.  Returns scalars "loss" (the sum
    of the others), "box", "obj", "cls", "l1".  Bad targets: see ``pad_targets``.
    """

    def __init__(
        self,
        num_classes: int,
        strides: Sequence[int] = (8, 16, 32),
        use_l1: bool = False,
        iou_kind: str = "iou2",
        box_weight: float = 5.0,
        assigner: Assigner | None = None,
    ) -> None:
        super().__init__()
        if iou_kind not in BOX_LOSSES:
            raise ValueError(
                f"{type(self).__name__}: iou_kind must be one of {', '.join(BOX_LOSSES)}, got {iou_kind!r}"
            )
        self.num_classes = check_num_classes(type(self).__name__, num_classes)
        self.strides = tuple(strides)
        self.use_l1 = use_l1
        self.iou_kind = iou_kind
        self.box_weight = box_weight
        self.assigner = SimOTA() if assigner is None else assigner

    def forward(self, raw: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        with torch.autocast(raw[0].device.type, enabled=False):
            predictions, padded = self._read(raw, targets)
            return self._parts(predictions, padded, self.assigner(predictions, padded))

    def _read(self, raw: Sequence[Tensor], targets: Targets) -> tuple[AnchorFree, PaddedTargets]:
        owner = type(self).__name__
        predictions = AnchorFree.of(owner, raw, self.strides, self.num_classes)
        images, size = len(predictions.codes), predictions.size
        return predictions, pad_targets(owner, targets, self.num_classes, images, size, predictions.codes)

    def _parts(self, predictions: AnchorFree, targets: PaddedTargets, matches: Matches) -> dict[str, Tensor]:
        image, candidate = matches.image, matches.candidate
        foreground = max(len(matches), 1)
        wanted = targets.boxes[image, matches.target]
        is_object = torch.zeros_like(predictions.objectness)
        is_object[image, candidate] = 1
        scores = predictions.classes[image, :, candidate]  # [P, C]
        wanted_scores = torch.zeros_like(scores)
        labels = targets.labels[image, matches.target]
        wanted_scores.scatter_(1, labels[:, None], matches.overlap[:, None])
        box = self._box_loss(predictions.boxes_of(image, candidate), wanted).sum()
        parts = {
            "box": self.box_weight * box / foreground,
            "obj": bce(predictions.objectness, is_object, reduction="sum") / foreground,
            "cls": bce(scores, wanted_scores, reduction="sum") / foreground,
            "l1": box.new_zeros(()),
        }
        if self.use_l1:
            error = predictions.codes[image, candidate] - predictions.encode(wanted, candidate)
            parts["l1"] = error.abs().sum() / foreground
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def _box_loss(self, boxes: Tensor, wanted: Tensor) -> Tensor:
        if self.iou_kind != "iou2":
            return box_iou_loss(boxes, wanted, kind=self.iou_kind, reduction="none")
        loss = box_iou_loss(boxes, wanted, kind="iou", reduction="none")
        return loss * (2 - loss)  # 1 - IoU^2
