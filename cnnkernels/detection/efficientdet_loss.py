"""The loss of EfficientDet: Tan, Pang, Le 2019, arXiv:1911.09070, section 5.1, with the settings of the authors' code."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import huber_loss

from cnnkernels import _check
from cnnkernels.detection.assignment import Matches
from cnnkernels.detection.focal_loss import sigmoid_focal_loss
from cnnkernels.detection.label_smoothing import check_smoothing
from cnnkernels.detection.overlap_matching import OverlapMatching
from cnnkernels.detection.padded_targets import PaddedTargets, check_num_classes, pad_targets
from cnnkernels.detection.types import Targets
from cnnkernels.models.efficientdet_anchors import encode_boxes

Anchors = Callable[[Sequence[Sequence[int]], torch.device, torch.dtype], Tensor]
"""Sizes of the maps, device, dtype -> [A, 4]: ``EfficientDetAnchors``."""


class EfficientDetLoss(nn.Module):
    """Of P anchors in the batch that stand for an object:

        cls   1 / (P + 1) * sum over all anchors and classes of the focal loss
        box   box_weight / (4 (P + 1)) * sum over the P anchors of Huber(code - the object's code), with delta

    anchors: ``EfficientDetAnchors``; strides: pixels, of the levels.

    ``loss(raw, targets)``, raw: (class logits, box codes), each a list over the levels: [N, 9 * num_classes, H, W] and
    [N, 9 * 4, H, W], any floating-point type (the loss is computed in float32, float64 stays), targets as in
    ``cnnkernels.detection.Targets``.  Returns scalars "loss" (the sum of the others), "box", "cls".  Bad targets: see
    ``pad_targets``.
    """

    def __init__(
        self,
        num_classes: int,
        anchors: Anchors,
        strides: Sequence[int],
        alpha: float = 0.25,
        gamma: float = 1.5,
        delta: float = 0.1,
        box_weight: float = 50.0,
        label_smoothing: float = 0.0,
        matching: OverlapMatching | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = check_num_classes("EfficientDetLoss", num_classes)
        self.anchors, self.strides = anchors, tuple(strides)
        self.alpha, self.gamma, self.delta, self.box_weight = alpha, gamma, delta, box_weight
        self.label_smoothing = check_smoothing("EfficientDetLoss", label_smoothing)
        self.matching = matching or OverlapMatching()

    def forward(self, raw: tuple[Sequence[Tensor], Sequence[Tensor]], targets: Targets) -> dict[str, Tensor]:
        classes, boxes = raw
        if not len(classes) == len(boxes) == len(self.strides):
            counts = f"{len(classes)} and {len(boxes)}"
            raise ValueError(f"EfficientDetLoss: raw must be two lists of {len(self.strides)} levels, got {counts}")
        with torch.autocast(classes[0].device.type, enabled=False):
            logits = [_by_anchor("class logits", level, self.num_classes) for level in classes]
            codes = torch.cat([_by_anchor("box codes", level, 4) for level in boxes], dim=1)
            sizes = [level.shape[2:] for level in classes]
            anchors = self.anchors(sizes, codes.device, codes.dtype)
            found = codes.shape[1], sum(level.shape[1] for level in logits)
            if found != (len(anchors), len(anchors)):
                raise ValueError(
                    f"EfficientDetLoss: raw must be of {len(anchors)} anchors, got {found[1]} and {found[0]}"
                )
            size = [n * self.strides[0] for n in sizes[0]]
            padded = pad_targets("EfficientDetLoss", targets, self.num_classes, len(codes), size, codes)
            matches = self.matching(_corners(anchors), padded)
            normaliser = len(matches) + 1
            cls = self._class_loss(logits, padded, matches) / normaliser
            box = self._box_loss(codes, anchors, padded, matches) * (self.box_weight / (4 * normaliser))
            return {"loss": cls + box, "box": box, "cls": cls}

    def _class_loss(self, logits: Sequence[Tensor], targets: PaddedTargets, matches: Matches) -> Tensor:
        counts = [level.shape[1] for level in logits]
        wanted = logits[0].new_zeros(len(logits[0]), sum(counts), self.num_classes)
        wanted[matches.image, matches.candidate, targets.labels[matches.image, matches.target]] = 1
        settings = (self.alpha, self.gamma, self.label_smoothing)
        levels = zip(logits, wanted.split(counts, dim=1), strict=True)
        return torch.stack([sigmoid_focal_loss(level, goal, *settings).sum() for level, goal in levels]).sum()

    def _box_loss(self, codes: Tensor, anchors: Tensor, targets: PaddedTargets, matches: Matches) -> Tensor:
        place = matches.image, matches.target
        boxes = torch.cat((targets.centres[place], targets.sizes[place]), 1)
        wanted = encode_boxes(boxes, anchors[matches.candidate])
        return huber_loss(codes[matches.image, matches.candidate], wanted, reduction="sum", delta=self.delta)


def _corners(boxes: Tensor) -> Tensor:
    """x1, y1, x2, y2 of boxes [A, 4] = centre x, centre y, width, height."""
    centre, sides = boxes.split(2, dim=1)
    return torch.cat((centre - sides / 2, centre + sides / 2), 1)


def _by_anchor(what: str, level: Tensor, n: int) -> Tensor:
    """[N, A * n, H, W] as [N, H * W * A, n], float32 or float64."""
    if level.dim() != 4 or level.shape[1] % n:
        raise ValueError(f"EfficientDetLoss: {what} must be [N, A * {n}, H, W], got {list(level.shape)}")
    return level.permute(0, 2, 3, 1).reshape(len(level), -1, n).to(_check.acc_dtype(level))
