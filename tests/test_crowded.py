"""What DIoU-NMS keeps and plain NMS loses, on pictures whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cnnkernels.detection import Detector, crowded
from cnnkernels.detection.data.coco import CocoData
from cnnkernels.detection.sample import Sample
from cnnkernels.detection.types import Detections
from cnnkernels.models.detection_network import DetectionNetwork

Image = pytest.importorskip("PIL.Image")

# Two objects with IoU 0.538, DIoU 0.505, and one alone; a second box on the first that both kinds of NMS remove.
TRUTH = [(10.0, 10, 40, 40), (19.0, 10, 49, 40), (60.0, 60, 90, 90)]
FOUND = [*TRUTH, (11.0, 10, 41, 40)]


class Fixed(DetectionNetwork):
    """Predicts FOUND in every picture."""

    num_classes, strides, backend = 1, (32,), None

    def raw(self, x):
        return x

    def decode(self, x):
        rows = [[(a + c) / 2, (b + d) / 2, c - a, d - b, 0.9 - 0.1 * i, 1.0] for i, (a, b, c, d) in enumerate(FOUND)]
        return torch.tensor([rows]).repeat(len(x), 1, 1)


@pytest.fixture
def data(tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "annotations").mkdir()
    Image.fromarray(np.full((96, 96, 3), 90, np.uint8)).save(tmp_path / "val" / "a.png")
    boxes = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [a, b, c - a, d - b], "area": 1, "iscrowd": 0}
        for i, (a, b, c, d) in enumerate(TRUTH, 1)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 96, "width": 96}],
        "annotations": boxes,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return CocoData.split(tmp_path, "val")


def test_compare_and_picture(data):
    detector = Detector(Fixed(), names=["thing"], size=96, iou_threshold=0.52)
    counts, losses = crowded.compare(detector, data)
    assert counts == crowded.Counts(3, {"iou": 2, "diou": 3}, {"iou": 2, "diou": 3}, 1, 0)
    assert "found by diou alone: 1; by iou alone: 0" in counts.text() and "100.0%" in counts.text()
    ((index, lost),) = losses
    assert index == 0 and lost.tolist() == [False, True, False]
    picture = crowded.figure(detector, data, losses)
    assert picture.shape == (2 * (34 + 192), 192, 3)
    reds = (picture == (255, 0, 0)).all(2)
    above, below = reds[:226], reds[226:]
    assert above[:, 38:98].sum() > 50 and not below.any()  # dashes around the lost one, in the upper picture only


def test_a_box_finds_one_object():
    sample = Sample(np.zeros((96, 96, 3), np.uint8), np.array(TRUTH, np.float32), np.zeros(3, np.int64))
    one = Detections(torch.tensor([[14.0, 10, 45, 40]]), torch.ones(1), torch.zeros(1, dtype=torch.int64))
    assert crowded.found_objects(one, sample).sum() == 1
    twice = Detections(one.boxes.repeat(2, 1), torch.ones(2), torch.zeros(2, dtype=torch.int64))
    assert crowded.found_objects(twice, sample).tolist() == [True, True, False]  # the second box takes the other object
    other = Detections(one.boxes, one.scores, torch.ones(1, dtype=torch.int64))
    assert not crowded.found_objects(other, sample).any()
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert crowded.found_objects(none, sample).tolist() == [False] * 3


def test_command_refuses(tmp_path, capsys):
    assert crowded.main(["--data", str(tmp_path), "--weights", str(tmp_path / "none.safetensors")]) == 2
    assert "no weights that the training wrote" in capsys.readouterr().err
