"""YOLOv3 beside a network computed as its configuration file says, weight files that fit and others, first predictions."""

import numpy as np
import pytest
import torch

from cnnkernels.models import create_model, list_models
from cnnkernels.models.darknet_detector import decode_level
from cnnkernels.models.darknet_weights import load_darknet_weights, save_darknet_weights
from tests import darknet_cfg
from tests.darknet_detectors import CLASSES, assert_as_darknet, assert_same_training_step, written
from tests.networks.case import images

CONFIGURATIONS = {
    "yolov3": darknet_cfg.YOLOV3,
    "yolov3_spp": darknet_cfg.YOLOV3_SPP,
    "yolov3_tiny": darknet_cfg.YOLOV3_TINY,
}
DARKNETS = list_models("yolov[34]*")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_as_configured(name, tmp_path):
    assert_as_darknet(name, CONFIGURATIONS[name], tmp_path)


@pytest.mark.parametrize("version", [(0, 1, 0), (0, 2, 0), (0, 2, 5)])
def test_weight_file_round_trip(version, tmp_path):
    """Of every header that Darknet has written; what follows it comes back to the bit."""
    path, again = written(darknet_cfg.YOLOV3_TINY, tmp_path, version), tmp_path / "b.weights"
    model = create_model("yolov3_tiny", pretrained=path, num_classes=CLASSES)
    save_darknet_weights(model, again, seen=5)
    assert np.fromfile(again, "<i4", 5).tolist() == [0, 2, 0, 5, 0]
    assert again.read_bytes()[20:] == path.read_bytes()[20 if version >= (0, 2, 0) else 16 :]


def test_weight_files_that_do_not_fit(tmp_path):
    path = written(darknet_cfg.YOLOV3_TINY, tmp_path)
    with pytest.raises(ValueError, match=r"does not fit YOLOv3Tiny: it has .* with num_classes=3 it fits"):
        create_model("yolov3_tiny", pretrained=path)
    with pytest.raises(ValueError, match=r"does not fit YOLOv4Tiny: it has .* classes takes [\d,]+$"):
        create_model("yolov4_tiny", pretrained=path, num_classes=CLASSES)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"does not fit YOLOv3Tiny: it has .* a network of 3 classes takes"):
        create_model("yolov3_tiny", pretrained=path, num_classes=CLASSES)
    with pytest.raises(ValueError, match="layout is for files with keys"):
        create_model("yolov3_tiny", pretrained=path, layout="timm")


def test_backbone_of_a_classifier(tmp_path):
    """``darknet53.conv.74`` is Darknet53 without its classifier."""
    classifier, path = create_model("darknet53", num_classes=0), tmp_path / "darknet53.conv.74"
    save_darknet_weights(classifier, path)
    backbone = create_model("yolov3").backbone
    load_darknet_weights(backbone, path)
    assert all(torch.equal(t, classifier.state_dict()[key]) for key, t in backbone.state_dict().items())


def test_decode():
    """One cell of two, by hand: the formulas of arXiv:1804.02767, section 2.1, of YOLOv4 and of Scaled-YOLOv4."""
    raw = torch.zeros(1, 1, 1, 2, 6)
    raw[..., 1, :] = torch.tensor([1.0, -2.0, 0.5, -0.5, 3.0, -3.0])
    s = torch.sigmoid(torch.tensor([1.0, -2.0, 0.5, -0.5, 3.0, -3.0])).tolist()
    first, second = decode_level(raw, [(10, 20)], 16, 1.0)[0].tolist()
    assert first == [8.0, 8.0, 10.0, 20.0, 0.5, 0.5]
    size = [10 * np.exp(0.5), 20 * np.exp(-0.5)]
    assert second == pytest.approx([16 * (1 + s[0]), 16 * s[1], *size, s[4], s[5]], rel=1e-6)
    (_, second), (_, third) = (decode_level(raw, [(10, 20)], 16, *kw)[0].tolist() for kw in ((1.2,), (2.0, True)))
    assert second == pytest.approx([16 * (1 + 1.2 * s[0] - 0.1), 16 * (1.2 * s[1] - 0.1), *size, s[4], s[5]], rel=1e-6)
    size = [10 * (2 * s[2]) ** 2, 20 * (2 * s[3]) ** 2]
    assert third == pytest.approx([16 * (0.5 + 2 * s[0]), 16 * (2 * s[1] - 0.5), *size, s[4], s[5]], rel=1e-6)
    assert decode_level(raw.half(), [(10, 20)], 16, 1.0).dtype is torch.float32


@pytest.mark.parametrize("name", ["yolov3_tiny", "yolov4_tiny"])
def test_first_predictions(name):
    """Before training nearly nothing is an object, boxes are near their anchors, classes undecided."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=2)
    x = torch.rand(2, 3, 64, 96)
    raw = model(x)
    assert [level.shape for level in raw] == [(2, 3, 2, 3, 7), (2, 3, 4, 6, 7)]
    objectness = torch.cat([level[..., 4].sigmoid().flatten() for level in raw])
    assert objectness.min() > 0.005 and objectness.max() < 0.02 and abs(objectness.mean() - 0.01) < 0.001
    with torch.no_grad():
        predictions = model.decode(raw)
    assert predictions.shape == (2, 3 * (6 + 24), 7)
    anchors = torch.tensor(model.anchors[0], dtype=torch.float32).repeat_interleave(6, 0)
    torch.testing.assert_close(predictions[0, :18, 2:4], anchors, rtol=0.5, atol=0)
    torch.testing.assert_close(predictions[..., 5:], torch.full_like(predictions[..., 5:], 0.5), rtol=0, atol=0.15)


def test_training_step():
    torch.manual_seed(0)
    runs = assert_same_training_step(create_model("yolov3_tiny", num_classes=2), images(2, 64))
    assert {(r.op, r.backend) for r in runs} >= {("bn_act_train", "cpu")}


@pytest.mark.parametrize("name", DARKNETS)
def test_what_describes_the_levels(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=1, in_chans=1)
        x = torch.zeros(2, 1, 64, 32)
        raw, predictions = model(x), model.eval()(x)
    assert [tuple(level.shape) for level in raw] == [(2, 3, 64 // s, 32 // s, 6) for s in model.strides]
    assert predictions.shape == (2, sum(3 * 64 * 32 // s**2 for s in model.strides), 6)
    assert [len(level) for level in model.anchors] == [3] * len(model.strides)
    areas = [sum(w * h for w, h in level) for level in model.anchors]
    order = sorted(range(len(areas)), key=areas.__getitem__)
    assert order == sorted(order, key=lambda i: model.strides[i])
    assert model.preprocessing.fill == (128, 128, 128) and not model.preprocessing.bgr and model.preprocessing.centred
    with pytest.raises(ValueError, match=r"multiples of 32, got \[1, 1, 48, 32\]"):
        model(torch.zeros(1, 1, 48, 32, device="meta"))


def test_no_classes():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        create_model("yolov3_tiny", num_classes=0)
