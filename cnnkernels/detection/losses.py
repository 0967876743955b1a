"""The loss that belongs to a detector, with its published settings."""

from __future__ import annotations

from typing import Any

from torch import nn

from cnnkernels.detection.anchor_assignment import BestAnchor
from cnnkernels.detection.anchor_loss import AnchorLoss
from cnnkernels.detection.efficientdet_loss import EfficientDetLoss
from cnnkernels.detection.end_to_end_loss import EndToEndLoss
from cnnkernels.detection.yolox_loss import YOLOXLoss
from cnnkernels.models.darknet_detector import DarknetDetector
from cnnkernels.models.efficientdet import EfficientDet
from cnnkernels.models.yolov4 import YOLOv4
from cnnkernels.models.yolov5 import YOLOv5
from cnnkernels.models.yolox import YOLOX
from cnnkernels.models.yolox_end_to_end import YOLOXEndToEnd


def loss_for(model: nn.Module, **kw: Any) -> nn.Module:
    """``loss(raw, targets) -> {"loss": ..., parts}`` for a detector of ``cnnkernels.models``; TypeError for another model.

    YOLOX           ``YOLOXLoss``; with ``EndToEndHead`` ``EndToEndLoss``
    YOLOv5          ``AnchorLoss.yolov5``, also for yolov4-csp and yolov4x-mish: their authors train with it
    YOLOv3, YOLOv4  ``AnchorLoss.darknet``; YOLOv4 with the other anchors of IoU above 0.213, as in its configuration file
    EfficientDet    ``EfficientDetLoss``

    The loss describes the model as it is: make it after weights, hence anchors, are loaded.  kw: for that class, instead
    of the settings.
    """
    if isinstance(model, YOLOXEndToEnd):
        return EndToEndLoss(model.num_classes, model.strides, **kw)
    if isinstance(model, YOLOX):
        return YOLOXLoss(model.num_classes, model.strides, **kw)
    if isinstance(model, EfficientDet):
        return EfficientDetLoss(model.num_classes, model.anchors, model.strides, **kw)
    if isinstance(model, YOLOv5) or (isinstance(model, DarknetDetector) and model.squared):
        return AnchorLoss.yolov5(model.num_classes, model.anchors, model.strides, **kw)
    if isinstance(model, DarknetDetector):
        if isinstance(model, YOLOv4):
            kw = {"assigner": BestAnchor(also=0.213), **kw}
        return AnchorLoss.darknet(model.num_classes, model.anchors, model.strides, model.scale_xy, **kw)
    raise TypeError(f"loss_for: {type(model).__name__} is no detector of cnnkernels.models")
