"""Every family's network learns from the loss that ``loss_for`` gives it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cnnkernels.detection.anchor_assignment import BestAnchor, SideRatio
from cnnkernels.detection.anchor_loss import AnchorLoss
from cnnkernels.detection.efficientdet_loss import EfficientDetLoss
from cnnkernels.detection.losses import loss_for
from cnnkernels.detection.yolox_loss import YOLOXLoss
from cnnkernels.models import create_model

CLASSES = 3
TARGETS = [
    torch.tensor([[0, 8.0, 12, 60, 70], [2, 70, 64, 120, 100]]),
    torch.tensor([[1, 30.0, 20, 90, 110]]),
]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("yolox_nano", YOLOXLoss),
        ("yolov3_tiny", AnchorLoss),
        ("yolov4_tiny", AnchorLoss),
        ("yolov5n", AnchorLoss),
        ("efficientdet_d0", EfficientDetLoss),
    ],
)
def test_a_step_reaches_the_whole_network(name, kind):
    torch.manual_seed(0)
    model = create_model(name, num_classes=CLASSES).train()
    criterion = loss_for(model)
    assert type(criterion) is kind
    x = torch.rand(2, 3, 128, 128)
    parts = criterion(model(x), TARGETS)
    assert float(parts["box"].detach()) > 0
    assert sum(float(v.detach()) for k, v in parts.items() if k != "loss") == pytest.approx(
        float(parts["loss"].detach())
    )
    parts["loss"].backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    assert next(model.parameters()).grad.abs().max() > 0  # of the first convolution


@pytest.mark.parametrize("name", ["yolov3", "yolov4", "yolov4_csp_640", "yolov5s_v5"])
def test_settings_of_the_families(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=CLASSES)
    if name == "yolov5s_v5":
        model.model["24"].anchors = torch.tensor([[[1.0, 2.0]] * 3, [[3.0, 2.0]] * 3, [[4.0, 5.0]] * 3])
    criterion = loss_for(model, box_kind="giou", label_smoothing=0.1)
    assert (criterion.box_kind, criterion.label_smoothing) == ("giou", 0.1)
    assert criterion.strides == tuple(model.strides)
    as_yolov5 = name in ("yolov4_csp_640", "yolov5s_v5")
    assert criterion.mean == criterion.squared == criterion.overlap_as_objectness == as_yolov5
    wanted = {"yolov3": BestAnchor(), "yolov4": BestAnchor(also=0.213)}.get(name, SideRatio())
    assert criterion.assigner == wanted
    assert criterion.scales == {"yolov3": (1.0, 1.0, 1.0), "yolov4": (1.2, 1.1, 1.05)}.get(name, (2.0, 2.0, 2.0))


def test_anchors_are_those_of_the_model():
    model = create_model("yolov5n", num_classes=CLASSES)
    model.model["24"].anchors *= 2
    criterion = loss_for(model)
    assert criterion.get_buffer("anchors_0").tolist() == [[20, 26], [32, 60], [66, 46]]
    assert not criterion.state_dict()


def test_another_model_has_none():
    with pytest.raises(TypeError, match="loss_for: Linear is no detector"):
        loss_for(nn.Linear(2, 2))
