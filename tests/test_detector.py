"""The way of a picture: letterbox, network, boxes back on the picture; files of weights; the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cnnkernels import cli
from cnnkernels.detection import Detections, Detector, weights
from cnnkernels.detection.drawing import colour, draw_detections
from cnnkernels.models import create_model
from cnnkernels.models.detection_network import DetectionNetwork, Preprocessing

Image = pytest.importorskip("PIL.Image")


class Finder(DetectionNetwork):
    """Finds the one green rectangle of each image, exactly."""

    preprocessing = Preprocessing(fill=(255, 255, 255), centred=True)
    num_classes, strides, backend = 2, (8, 32), None

    def raw(self, x):
        self.seen = [*getattr(self, "seen", []), tuple(x.shape)]
        return x

    def decode(self, x):
        green = (x[:, 1] > 0.9) & (x[:, 0] < 0.1)
        rows = []
        for mask in green:
            ys, xs = mask.nonzero(as_tuple=True)
            x1, y1, x2, y2 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
            rows.append(torch.tensor([[(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 1.0, 0.0, 0.9]]))
        return torch.stack(rows).to(x.dtype)


BOX = (20, 40, 60, 90)


def picture(height=120, width=100, box=BOX):
    image = np.full((height, width, 3), 30, np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = (0, 255, 0)
    return image


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("size", [(120, 100), (90, 160), (333, 127), (64, 64)])
def test_boxes_come_back(size, adaptive):
    box = (5, 10, 45, 50)
    detector = Detector(Finder(), names=["a", "b"], size=320, adaptive=adaptive)
    (found,) = detector(picture(*size, box))
    scale = 320 / max(size)
    assert found.labels.tolist() == [1] and found.scores.tolist() == pytest.approx([0.9])
    assert np.abs(found.boxes[0].numpy() - box).max() <= max(1 / scale, 1)  # a pixel of the input, or of the picture
    assert found.as_dicts(detector.names)[0]["name"] == "b"


def test_adaptive_pads_to_the_stride():
    network = Finder()
    Detector(network, names=["a", "b"], size=320)(picture(90, 160, (5, 10, 45, 50)))
    Detector(network, names=["a", "b"], size=320, adaptive=False)(picture(90, 160, (5, 10, 45, 50)))
    assert network.seen == [(1, 3, 192, 320), (1, 3, 320, 320)]


def test_order_and_batches():
    """Pictures of different shapes, more than a batch, from an iterator."""
    sizes = [(120, 100), (100, 120), (120, 100), (60, 120), (120, 100)]
    boxes = [(5 + i, 10, 45, 50 + i) for i in range(5)]
    network = Finder()
    detector = Detector(network, names=["a", "b"], size=96, batch_size=3)
    found = detector(picture(*s, b) for s, b in zip(sizes, boxes, strict=True))
    for d, b in zip(found, boxes, strict=True):
        assert np.abs(d.boxes[0].numpy() - b).max() <= 1.5
    assert sorted(s[0] for s in network.seen) == [1, 1, 3]  # those of one shape together


def test_kinds_of_pictures(tmp_path):
    image = picture()
    path = tmp_path / "p.png"
    Image.fromarray(image).save(path)
    detector = Detector(Finder(), names=["a", "b"], size=128)
    kinds = [
        image,
        path,
        str(path),
        path.read_bytes(),
        Image.fromarray(image),
        torch.from_numpy(image).permute(2, 0, 1),
    ]
    boxes = [d.boxes for d in detector(kinds)]
    assert all(torch.equal(b, boxes[0]) for b in boxes) and len(boxes) == 6
    assert len(detector(path)) == 1


@pytest.mark.parametrize(
    ("bad", "error", "match"),
    [
        (np.zeros((4, 4, 3), np.float32), ValueError, "uint8"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r"\[H, W, 3\]"),
        (torch.zeros(4, 4, 3), ValueError, "uint8"),
        (b"no picture", ValueError, "no picture that can be read"),
        (7, TypeError, "got int"),
        ("/does/not/exist.png", FileNotFoundError, "exist.png"),
    ],
)
def test_bad_pictures(bad, error, match):
    with pytest.raises(error, match=match):
        Detector(Finder(), names=["a", "b"], size=128)([bad])


def test_arguments():
    with pytest.raises(ValueError, match="mobilenet_v2 is for classification"):
        Detector("mobilenet_v2")
    with pytest.raises(ValueError, match="no network called"):
        Detector("yolo_none")
    with pytest.raises(ValueError, match="multiple of 32, got 100"):
        Detector("yolox_nano", size=100)
    with pytest.raises(ValueError, match="2 classes, got 1 names"):
        Detector(Finder(), names=["a"])
    with pytest.raises(ValueError, match="batch_size"):
        Detector(Finder(), names=["a", "b"], batch_size=0)


# ---- weights ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    """A yolox_nano of three classes in a file, and the model."""
    torch.manual_seed(0)
    model = create_model("yolox_nano", num_classes=3).eval()
    torch.nn.init.zeros_(model.head.obj_preds[0].bias)  # so that something is found
    path = tmp_path / "nano.safetensors"
    weights.save(model, path, weights.About("yolox_nano", ["x", "y", "z"], 64))
    return path, model


def test_weights_bring_names_and_size(saved):
    path, model = saved
    detector = Detector("yolox_nano", path, score_threshold=0.0)
    assert detector.names == ["x", "y", "z"] and detector.size == 64
    mine = Detector(model, names=["x", "y", "z"], size=64, score_threshold=0.0)
    image = picture(64, 64)
    (a,), (b,) = detector(image), mine(image)
    assert len(a) > 0 and torch.equal(a.boxes, b.boxes) and torch.equal(a.labels, b.labels)


def test_weights_of_another_network(saved):
    with pytest.raises(ValueError, match="holds weights of yolox_nano, got model='yolox_tiny'"):
        Detector("yolox_tiny", saved[0])


def test_damaged_weights(saved, tmp_path):
    short = tmp_path / "short.safetensors"
    short.write_bytes(saved[0].read_bytes()[:500])
    with pytest.raises(ValueError, match="damaged"):
        Detector("yolox_nano", short)
    with pytest.raises(FileNotFoundError):
        Detector("yolox_nano", tmp_path / "none.safetensors")


# ---- drawing and the command ----------------------------------------------------------------------------------------------


def test_drawing():
    image = picture()
    found = Detections(torch.tensor([[20.0, 40, 60, 90]]), torch.tensor([0.5]), torch.tensor([3]))
    drawn = draw_detections(image, found, ["a", "b", "c", "d"])
    assert drawn.shape == image.shape and np.array_equal(image, picture())  # the picture itself is left alone
    assert tuple(drawn[60, 20]) == tuple(drawn[89, 40]) == colour(3) != tuple(image[60, 20])
    assert len({colour(i) for i in range(80)}) == 80
    edge = Detections(torch.tensor([[0.0, 0, 100, 120], [99, 119, 100, 120]]), torch.ones(2), torch.zeros(2).long())
    assert draw_detections(image, edge, ["a long name of a class"]).shape == image.shape


def test_command(saved, tmp_path, capsys):
    pictures = tmp_path / "in"
    pictures.mkdir()
    for name in ("one.png", "two.jpg", "two.png"):
        Image.fromarray(picture(64, 80)).save(pictures / name)
    Image.fromarray(picture(64, 80)).convert("L").save(pictures / "grey.png")
    Image.fromarray(picture(64, 80)).convert("RGBA").save(pictures / "rgba.png")
    (pictures / "cut.jpg").write_bytes((pictures / "two.jpg").read_bytes()[:-300])
    (pictures / "notes.txt").write_text("no picture")
    out = tmp_path / "out"
    command = ["detect", str(pictures), str(tmp_path / "missing.png"), "--model", "yolox_nano"]
    status = cli.main([*command, "--weights", str(saved[0]), "--out", str(out), "--score", "0.001", "--batch", "2"])
    said = capsys.readouterr()
    assert status == 1 and "cut.jpg" in said.err and "missing.png" in said.err and said.err.count("skipped") == 2
    assert "in 5 pictures, 2 skipped" in said.out
    names = ("grey", "one", "rgba", "two", "two-2")
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [*(f"{n}.json" for n in names), "grey.png", "one.png", "rgba.png", "two.jpg", "two-2.png"]
    )
    content = json.loads((out / "one.json").read_text())
    assert (content["width"], content["height"]) == (80, 64) and content["objects"]
    for o in content["objects"]:
        x1, y1, x2, y2 = o["box"]
        assert o["name"] in "xyz" and 0 <= x1 < x2 <= 80 and 0 <= y1 < y2 <= 64 and 0.001 < o["score"] <= 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "yolox_nan"], "similar: yolox_nano"),
        (["--model", "yolox_nano", "--score", "2"], "between 0 and 1"),
        (["--model", "yolox_nano", "--weights", "none.pth"], "none.pth"),
        (["--model", "yolox_nano", "--device", "cuda"], "no GPU"),
    ],
)
def test_command_refuses(arguments, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Image.fromarray(picture()).save("p.png")
    assert cli.main(["detect", "p.png", *arguments]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "detections").exists()


def test_command_without_pictures(tmp_path, capsys):
    assert cli.main(["detect", str(tmp_path), "--model", "yolox_nano"]) == 2
    assert "no pictures in" in capsys.readouterr().err
