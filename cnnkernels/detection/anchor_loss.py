"""The loss of detectors with anchors: YOLOv3 and v4 as Darknet computes it, YOLOv5 as its authors do.

Redmon, Farhadi 2018, "YOLOv3", arXiv:1804.02767; Bochkovskiy, Wang, Liao 2020, "YOLOv4", arXiv:2004.10934; Wang,
Bochkovskiy, Liao 2020, "Scaled-YOLOv4", arXiv:2011.08036; YOLOv5 has no paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from cnnkernels import _boxes, _check
from cnnkernels.detection.anchor_assignment import BestAnchor, LevelAssignment, SideRatio
from cnnkernels.detection.anchor_level import AnchorLevel, Cells
from cnnkernels.detection.label_smoothing import check_smoothing, smoothed_one_hot
from cnnkernels.detection.padded_targets import PaddedTargets, check_num_classes, pad_targets
from cnnkernels.detection.types import Targets
from cnnkernels.ops.box_iou_loss import box_iou_loss

Assigner = Callable[[Sequence[AnchorLevel], PaddedTargets], list[LevelAssignment]]


@dataclass(frozen=True)
class Weights:
    """What the terms are multiplied with."""

    box: float = 1.0
    obj: float = 1.0
    cls: float = 1.0
    balance: tuple[float, ...] | None = None
    """Of the objectness on each level, in the order of the strides; None: 1."""


class AnchorLoss(nn.Module):
    """Of the predictions that the assigner chose on each level:

        box   1 - overlap(box, object), of the kind iou, giou, diou or ciou
        obj   BCE(objectness, target) over all predictions but the ignored ones; the target of a chosen one is 1 or, with
              ``overlap_as_objectness``, its overlap with the object (at least 0, a constant; the largest of several)
        cls   BCE(class, smoothed one-hot class of the object) over all classes

    mean: each term of a level is a mean over what it is taken of, and the sum over the levels is multiplied with the
    number of images (YOLOv5).  Else it is a sum, divided by the number of images (Darknet).

    anchors: (width, height) in pixels for each of the strides; scale_xy (a number, or one per level) and squared: how codes
    are boxes, see ``AnchorLevel``.  ``yolov5`` and ``darknet`` make one with published settings.

    ``loss(raw, targets)``, raw: logits [N, A, H, W, 5 + num_classes] for each stride, any floating-point type (the loss is
    computed in float32, float64 stays), targets as in ``cnnkernels.detection.Targets``.  Returns scalars "loss" (the sum
    of the others), "box", "obj", "cls".  Bad targets: see ``pad_targets``.
    """

    def __init__(
        self,
        num_classes: int,
        anchors: Sequence[Sequence[tuple[float, float]]],
        strides: Sequence[int],
        assigner: Assigner,
        weights: Weights = Weights(),  # noqa: B008 - it cannot be changed
        scale_xy: float | Sequence[float] = 1.0,
        squared: bool = False,
        box_kind: str = "ciou",
        overlap_as_objectness: bool = False,
        mean: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        _boxes.check_kind("AnchorLoss", box_kind, 1.0)
        scales = [scale_xy] * len(strides) if isinstance(scale_xy, (int, float)) else list(scale_xy)
        balance = weights.balance or (1.0,) * len(strides)
        if not len(anchors) == len(strides) == len(scales) == len(balance):
            counts = (len(anchors), len(scales), len(balance))
            raise ValueError(
                f"AnchorLoss: anchors, scale_xy and balance must be one for each of {len(strides)} strides, got {counts}"
            )
        self.num_classes = check_num_classes("AnchorLoss", num_classes)
        self.strides, self.scales, self.squared = tuple(strides), tuple(scales), squared
        for i, level in enumerate(anchors):
            self.register_buffer(f"anchors_{i}", torch.tensor(level, dtype=torch.float32), persistent=False)
        self.assigner, self.weights, self.balance = assigner, weights, balance
        self.box_kind = box_kind
        self.overlap_as_objectness = overlap_as_objectness
        self.mean = mean
        self.label_smoothing = check_smoothing("AnchorLoss", label_smoothing)

    @classmethod
    def yolov5(
        cls,
        num_classes: int,
        anchors: Sequence[Sequence[tuple[float, float]]],
        strides: Sequence[int],
        image_size: int = 640,
        box_kind: str = "ciou",
        label_smoothing: float = 0.0,
        box_weight: float = 0.05,
    ) -> AnchorLoss:
        """YOLOv5 and Scaled-YOLOv4.  image_size: that of the training, in pixels.

        The published weights 0.05, 1 and 0.5 are for COCO at 640 pixels on three levels, and are scaled to what there is;
        fine levels have more of the objectness.  A single class has no class loss: an object has no other.
        """
        levels = 3 / len(strides)
        by_stride = (4.0, 1.0, 0.4) if len(strides) == 3 else (4.0, 1.0, 0.25, 0.06, 0.02)
        if len(strides) > len(by_stride):
            raise ValueError(f"AnchorLoss: at most {len(by_stride)} strides, got {len(strides)}")
        weights = Weights(
            box=box_weight * levels,
            obj=1.0 * levels * (image_size / 640) ** 2,
            cls=0.5 * levels * num_classes / 80 if num_classes > 1 else 0.0,
            balance=tuple(by_stride[sorted(strides).index(stride)] for stride in strides),
        )
        return cls(
            *(num_classes, anchors, strides, SideRatio(), weights),
            scale_xy=2.0,
            squared=True,
            box_kind=box_kind,
            overlap_as_objectness=True,
            mean=True,
            label_smoothing=label_smoothing,
        )

    @classmethod
    def darknet(
        cls,
        num_classes: int,
        anchors: Sequence[Sequence[tuple[float, float]]],
        strides: Sequence[int],
        scale_xy: float | Sequence[float] = 1.0,
        assigner: Assigner | None = None,
        box_kind: str = "ciou",
        label_smoothing: float = 0.0,
        box_weight: float = 0.07,
    ) -> AnchorLoss:
        """YOLOv4, with the box weight of its configuration file; YOLOv3, whose paper has squared errors for boxes."""
        weights = Weights(box=box_weight)
        return cls(
            *(num_classes, anchors, strides, assigner or BestAnchor(), weights),
            scale_xy=scale_xy,
            box_kind=box_kind,
            label_smoothing=label_smoothing,
        )

    def forward(self, raw: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        with torch.autocast(raw[0].device.type, enabled=False):
            levels = self._levels(raw)
            images, size = len(raw[0]), [n * self.strides[0] for n in raw[0].shape[2:4]]
            like = raw[0].new_zeros((), dtype=_check.acc_dtype(raw[0]))
            padded = pad_targets("AnchorLoss", targets, self.num_classes, images, size, like)
            terms = [
                self._terms(level, padded, assigned, balance)
                for level, assigned, balance in zip(levels, self.assigner(levels, padded), self.balance, strict=True)
            ]
            scale = images if self.mean else 1 / images
            weights = (self.weights.box * scale, self.weights.obj * scale, self.weights.cls * scale)
            box, obj, cls = (sum(term) * w for term, w in zip(zip(*terms, strict=True), weights, strict=True))
            return {"loss": box + obj + cls, "box": box, "obj": obj, "cls": cls}

    def _levels(self, raw: Sequence[Tensor]) -> list[AnchorLevel]:
        if len(raw) != len(self.strides):
            raise ValueError(f"AnchorLoss: raw must be one level for each of {self.strides}, got {len(raw)}")
        levels = []
        for i, (level, stride, scale) in enumerate(zip(raw, self.strides, self.scales, strict=True)):
            anchors = self.get_buffer(f"anchors_{i}")
            if level.dim() != 5 or level.shape[1] != len(anchors) or level.shape[4] != 5 + self.num_classes:
                wanted = f"[N, {len(anchors)}, H, W, {5 + self.num_classes}]"
                raise ValueError(f"AnchorLoss: raw must be {wanted} for stride {stride}, got {list(level.shape)}")
            levels.append(AnchorLevel.of(level, anchors, stride, scale, self.squared))
        return levels

    def _terms(
        self, level: AnchorLevel, targets: PaddedTargets, assigned: LevelAssignment, balance: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """box, obj, cls of one level, without weights."""
        cells = assigned.cells
        wanted = targets.boxes[cells.image, cells.target]
        box = box_iou_loss(level.boxes_of(cells), wanted, kind=self.box_kind, reduction="none")
        labels = targets.labels[cells.image, cells.target]
        smoothed = smoothed_one_hot(labels, self.num_classes, self.label_smoothing, level.dtype)
        cls = bce(level.classes[cells.place].to(level.dtype), smoothed, reduction="none")
        objectness = self._objectness(level, cells, 1 - box.detach(), assigned.ignored)
        return self._reduce(box), balance * objectness, self._reduce(cls)

    def _objectness(self, level: AnchorLevel, cells: Cells, overlap: Tensor, ignored: Tensor | None) -> Tensor:
        logits = level.objectness.to(level.dtype)
        value = overlap.clamp(min=0) if self.overlap_as_objectness else torch.ones_like(overlap)
        _, a, h, w = logits.shape
        place = ((cells.image * a + cells.anchor) * h + cells.row) * w + cells.column
        wanted = torch.zeros_like(logits).flatten().scatter_reduce_(0, place, value, "amax").view_as(logits)
        loss = bce(logits, wanted, reduction="none")
        if ignored is None:
            return self._reduce(loss)
        is_object = torch.zeros_like(ignored).flatten().index_fill_(0, place, True).view_as(ignored)
        return self._reduce(torch.where(is_object | ~ignored, loss, 0))

    def _reduce(self, values: Tensor) -> Tensor:
        if not self.mean:
            return values.sum()
        return values.sum() / max(values.numel(), 1)
