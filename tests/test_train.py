"""Training a detector: the loop, going on after an interruption, files, refusals; evaluation against a loop."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch

from cnnkernels.detection import Detections, Detector
from cnnkernels.detection.data.coco import CocoData
from cnnkernels.detection.train import Settings, Trainer
from cnnkernels.detection.train.__main__ import main
from cnnkernels.detection.train.log import Log
from cnnkernels.detection.train.pictures import TrainingPictures
from cnnkernels.models.detection_network import Preprocessing

from .build_tree import ROOT

scenes = pytest.importorskip("cnnkernels.detection.data.scenes", reason="needs scikit-image")
pytest.importorskip("faster_coco_eval")
evaluation = pytest.importorskip("cnnkernels.detection.evaluate")

QUICK = Settings(
    "yolox_nano", size=64, epochs=3, batch_size=4, plain_epochs=1, warmup_epochs=1, workers=0, lr=0.05, ema_decay=0.9
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return scenes.make_scenes(tmp_path_factory.mktemp("data") / "scenes", 12, (64, 64), val_fraction=1 / 3)


def parts(folder):
    return CocoData.split(folder, "train"), CocoData.split(folder, "val")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A whole run, and what it said."""
    out, said = tmp_path_factory.mktemp("run"), []
    trainer = Trainer(QUICK, *parts(data), out)
    trainer.run(said.append)
    return out, trainer, said


def test_run(trained):
    out, trainer, said = trained
    assert [r["epoch"] for r in trainer.log.rows] == [1, 2, 3] and len(said) == 3
    assert {"loss", "box", "obj", "cls", "l1", "lr", "seconds"} <= trainer.log.rows[0].keys()
    assert trainer.log.rows[1]["l1"] == 0 < trainer.log.rows[2]["l1"]  # the last epoch is a plain one
    assert "map50" in trainer.log.rows[2] and "map50" not in trainer.log.rows[0]
    assert sorted(p.name for p in out.iterdir()) == ["best.safetensors", "last.pt", "log.csv"]
    detector = Detector("yolox_nano", out / "best.safetensors")
    assert detector.size == 64 and detector.names == trainer.names
    assert same_tensors(detector.network, trainer.ema.module)


def test_it_learns(data, tmp_path):
    settings = dataclasses.replace(
        QUICK, model="yolov4_tiny", epochs=8, mosaic=0.0, plain_epochs=0, evaluate_every=99, optimizer="adamw", lr=0.001
    )
    trainer = Trainer(settings, *parts(data), tmp_path)
    trainer.run(lambda line: None)
    losses = [r["loss"] for r in trainer.log.rows]
    assert trainer.ema.updates == 16 and losses[-1] < 0.75 * losses[0]


def same_tensors(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_goes_on_after_a_kill(trained, data, tmp_path, monkeypatch):
    """Killed in the second epoch: the run again gives the weights of the uninterrupted one, bit for bit."""

    class Killed(BaseException):
        pass

    steps = []

    def step(self, *args):
        steps.append(1)
        if len(steps) == 4:
            raise Killed
        return original(self, *args)

    original = Trainer._step
    monkeypatch.setattr(Trainer, "_step", step)
    with pytest.raises(Killed):
        Trainer(QUICK, *parts(data), tmp_path).run(lambda line: None)
    monkeypatch.setattr(Trainer, "_step", original)
    again = Trainer(QUICK, *parts(data), tmp_path)
    assert again.epoch == 1 and len(again.log.rows) == 1
    again.run(lambda line: None)
    _, whole, _ = trained
    assert not same_tensors(whole.model, whole.ema.module)  # an average that is one, so that its state matters
    for ours, theirs in ((again.model, whole.model), (again.ema.module, whole.ema.module)):
        assert same_tensors(ours, theirs)
    assert [r["loss"] for r in again.log.rows] == pytest.approx([r["loss"] for r in whole.log.rows], rel=1e-5)


def test_finished_run_has_nothing_to_do(trained, data):
    out, _, _ = trained
    assert Trainer(QUICK, *parts(data), out).run(pytest.fail) is None


def test_other_settings_are_refused(trained, data):
    out, _, _ = trained
    with pytest.raises(ValueError, match=r"other settings \(lr 0.05 -> 0.02\)"):
        Trainer(dataclasses.replace(QUICK, lr=0.02), *parts(data), out)
    Trainer(dataclasses.replace(QUICK, evaluate_every=1), *parts(data), out)  # this one may change


def test_damaged_state(trained, data, tmp_path):
    content = (trained[0] / "last.pt").read_bytes()
    for bad in (content[: len(content) // 2], b"", b"nothing"):
        (tmp_path / "last.pt").write_bytes(bad)
        with pytest.raises(ValueError, match="damaged"):
            Trainer(QUICK, *parts(data), tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"adversarial": 0.02},
        {"accumulate": 2, "mixup": 1.0},
        {"amp": True, "optimizer": "adamw", "lr": 0.001},
        {"iou_kind": "giou", "mosaic": 0.0},
        {"model": "yolov4_tiny", "iou_kind": "ciou"},
        {"model": "yolov5n", "label_smoothing": 0.1},
        {"model": "efficientdet_d0", "size": 128, "batch_size": 8},
    ],
    ids=lambda c: "-".join(map(str, c.values())),
)
def test_variants(changes, data, tmp_path):
    trainer = Trainer(dataclasses.replace(QUICK, epochs=1, plain_epochs=0, **changes), *parts(data), tmp_path)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    assert trainer.run(lambda line: None) is not None
    moved = [k for k, v in trainer.model.named_parameters() if not torch.equal(v, before[k])]
    assert len(moved) > 0.9 * len(list(trainer.model.parameters()))


@pytest.mark.parametrize("model", ["yolox_nano", "yolov4_tiny", "yolov5n", "efficientdet_d0"])
def test_box_weight(model, data, tmp_path):
    """Twice the weight, twice that term of the loss; 0 is the published one."""
    boxes = []
    for weight in (0.0, 1.0, 2.0):
        settings = dataclasses.replace(QUICK, model=model, size=128, box_weight=weight)
        trainer = Trainer(settings, *parts(data), tmp_path / str(weight))
        torch.manual_seed(0)
        raw = trainer.model.train()(torch.rand(2, 3, 128, 128))
        boxes.append(float(trainer.loss(raw, [torch.tensor([[0, 30.0, 30, 90, 80]])] * 2)["box"].detach()))
    published, once, twice = boxes
    assert published > 0 and twice == pytest.approx(2 * once, rel=1e-5)
    assert published != pytest.approx(once, rel=1e-3)


def test_loss_that_is_no_number(data, tmp_path, capsys):
    command = ["--data", str(data), "--model", "yolox_nano", "--out", str(tmp_path), "--size", "64", "--workers", "0"]
    assert (
        main([*command, "--batch-size", "4", "--lr", "1e12", "--epochs", "9", "--warmup-epochs", "0", "--clip", "1e30"])
        == 3
    )
    assert "no longer a number" in capsys.readouterr().err


def test_command(data, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    command = ["--data", str(data), "--model", "yolox_nano", "--out", str(tmp_path / "run"), "--size", "64"]
    assert main([*command, "--batch-size", "4", "--epochs", "1", "--workers", "1", "--plain-epochs", "0"]) == 0
    said = capsys.readouterr().out
    assert "8 classes, 8 + 4 pictures; from scratch" in said and "mAP@0.5 " in said
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "mobilenet_v2"], "is for classification"),
        (["--model", "yolox_nano", "--epochs", "0"], "out of range: epochs=0"),
        (["--model", "yolox_nano", "--batch-size", "64"], "8 pictures do not fill one batch of 64"),
        (["--model", "yolox_nano", "--label-smoothing", "0.1"], "does not take label_smoothing"),
        (["--model", "yolox_nano", "--data", "/does/not/exist"], "instances_train.json"),
    ],
)
def test_command_refuses(arguments, says, data, tmp_path, capsys):
    assert main(["--data", str(data), "--out", str(tmp_path), "--workers", "0", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_two_processes(data, tmp_path):
    """torchrun with gloo: both take part, one writes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "--no-python",
               sys.executable, "-m", "cnnkernels.detection.train", "--data", str(data), "--model", "yolox_nano",
               "--out", str(tmp_path), "--size", "64", "--batch-size", "4", "--epochs", "1", "--workers", "0",
               "--plain-epochs", "0", "--threads", "1"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert (tmp_path / "log.csv").read_text().count("\n") == 2, done.stderr[-2000:]
    assert done.stdout.count("from scratch") == 1 and done.stdout.count("mAP@0.5 ") == 1


# ---- pictures and figures -------------------------------------------------------------------------------------------------


def test_pictures(data):
    """The same seed, epoch and place give the same picture; epochs differ; boxes are inside."""
    train, _ = parts(data)
    pictures = TrainingPictures(train, Preprocessing(), dataclasses.replace(QUICK, mixup=0.5))
    x, target = pictures[3]
    assert x.shape == (3, 64, 64) and x.dtype is torch.float32 and 0 <= x.min() < x.max() <= 1
    assert torch.equal(x, pictures[3][0]) and torch.equal(target, pictures[3][1])
    pictures.set_epoch(1)
    assert not torch.equal(x, pictures[3][0])
    for epoch in (1, 2):  # with Mosaic, and plain
        pictures.set_epoch(epoch)
        boxes = torch.cat([pictures[i][1] for i in range(len(pictures))])
        assert len(boxes) > 8 and (boxes[:, 1:] >= 0).all() and (boxes[:, 1:] <= 64).all()
        assert (boxes[:, 3] > boxes[:, 1]).all() and set(boxes[:, 0].tolist()) <= set(range(8))


def test_precision(data):
    """The boxes of the file found with falling scores, and one of them moved away."""
    _, val = parts(data)
    found = []
    for i in range(len(val)):
        s = val[i]
        n = len(s.labels)
        found.append(Detections(torch.from_numpy(s.boxes), torch.linspace(0.9, 0.5, n), torch.from_numpy(s.labels)))
    perfect = evaluation.precision(found, val)
    assert (perfect.map, perfect.map50, perfect.map75) == pytest.approx((1, 1, 1))
    found[0].boxes[0] += 1000
    assert 0.5 < evaluation.precision(found, val).map50 < 1
    assert evaluation.precision([], val).map == 0


def test_evaluate_needs_the_same_classes(trained, data):
    detector = Detector("yolox_nano", trained[0] / "best.safetensors", names=list("abcdefgh"))
    with pytest.raises(ValueError, match="the detector's classes are"):
        evaluation.evaluate(detector, parts(data)[1])


def test_log(tmp_path):
    log = Log(tmp_path / "log.csv")
    log.add({"epoch": 1, "loss": 2.5})
    log.add({"epoch": 2, "loss": 1.5, "map": 0.5})
    again = Log(tmp_path / "log.csv")
    assert again.rows == [{"epoch": 1.0, "loss": 2.5}, {"epoch": 2.0, "loss": 1.5, "map": 0.5}]
    again.keep(1)
    again.add({"epoch": 2, "loss": 7.0})
    assert [r["loss"] for r in Log(tmp_path / "log.csv").rows] == [2.5, 7.0]
    (tmp_path / "log.csv").write_text("epoch,loss\n1,what\n")
    with pytest.raises(ValueError, match="damaged"):
        Log(tmp_path / "log.csv")


def test_classes_of_the_parts_must_agree(data, tmp_path):
    train, val = parts(data)
    content = json.loads(val.annotations.read_text())
    content["categories"][0]["name"] = "disc"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="classes of the two parts differ"):
        Trainer(QUICK, train, CocoData(other, val.folder), tmp_path)
