"""Synthetic scenes: boxes measured in the pixels, the rule about hidden things, the same bytes twice, all or nothing."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("skimage", reason="pip install scikit-image")

from cnnkernels.detection.data import CocoData, make_scenes, scenes
from cnnkernels.detection.data.objects import CLASSES, Patch, draw
from cnnkernels.detection.data.photographs import photograph
from cnnkernels.detection.data.scenes import Scene, make_scene

BLACK = np.zeros((96, 128, 3), np.uint8)
SMALL = {"count": 6, "size": (64, 96), "val_fraction": 0.34}


def rectangle(height, width, value=255):
    return Patch(np.full((height, width, 3), value, np.uint8), np.ones((height, width), np.float32))


def extent(mask):
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize("label", range(len(CLASSES)))
@pytest.mark.parametrize("middle", [(64, 48), (5, 90), (124, 40)])
def test_boxes_are_the_extent_of_the_pixels(label, middle):
    for seed in range(4):
        patch = draw(label, 40.0, np.random.default_rng(seed))
        patch = Patch(np.full_like(patch.image, 255), patch.alpha)
        scene = Scene(BLACK, min_visible=0.1)
        assert scene.add(patch, label, *middle)
        assert scene.sample().boxes.tolist() == [extent(scene.image[..., 0] >= 128)]


@pytest.mark.parametrize("label", range(len(CLASSES)))
def test_sizes(label):
    """The longer side asked for, by however much turning makes the upright box larger or smaller."""
    for seed in range(5):
        left, top, right, bottom = extent(draw(label, 60.0, np.random.default_rng(seed)).alpha >= 0.5)
        assert 50 <= max(right - left, bottom - top) <= 86


def test_hidden_things_stay_whole_or_their_cover_is_left_out():
    scene = Scene(BLACK, min_visible=0.3)
    assert scene.add(rectangle(20, 20), 0, 40, 40)
    assert scene.add(rectangle(20, 13, 100), 1, 43.5, 40)  # 35 % of the first one still shows
    assert not scene.add(rectangle(20, 3, 50), 2, 31.5, 40)  # 20 % would
    assert not scene.add(rectangle(20, 20), 0, 128, 96)  # a quarter of it would be in the picture
    assert not scene.add(rectangle(20, 20), 0, 300, 40)
    sample = scene.sample()
    assert sample.boxes.tolist() == [[30, 30, 50, 50], [37, 30, 50, 50]]
    assert sample.labels.tolist() == [0, 1]
    assert set(np.unique(sample.image)) == {0, 100, 255}


def iou(a, b):
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = sides.clip(min=0).prod()
    return both / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - both)


def test_crowded_scenes_have_neighbours_that_overlap():
    overlaps = []
    for index in range(12):
        _, boxes, labels = make_scene(np.random.default_rng(index), (160, 160), crowded=True)
        for i in range(len(boxes)):
            overlaps += [iou(boxes[i], boxes[j]) for j in range(i) if labels[i] == labels[j]]
    assert sum(o > 0.4 for o in overlaps) >= 8
    assert max(overlaps) < 0.9


def test_files(tmp_path):
    folder = make_scenes(tmp_path / "new" / "scenes", **SMALL)
    train, val = (CocoData.split(folder, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (4, 2)
    assert train.names == val.names == CLASSES and train.dropped.total() == 0
    assert [train.image_id(i) for i in range(4)] + [val.image_id(i) for i in range(2)] == [1, 2, 3, 4, 5, 6]
    rng = np.random.default_rng([0, 2])
    expected = make_scene(rng, SMALL["size"], crowded=bool(rng.random() < 0.3))
    found = train[2]
    assert np.array_equal(found.boxes, expected.boxes) and np.array_equal(found.labels, expected.labels)
    difference = np.abs(found.image.astype(int) - expected.image)
    assert found.image.shape == (64, 96, 3) and difference.mean() < 4  # JPEG
    assert all(p.stat().st_mode & 0o044 for p in folder.rglob("*"))


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    def content(name, **other):
        folder = make_scenes(tmp_path / name, **{**SMALL, **other})
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    first = content("first")
    assert len(first) == 8 and first == content("second")
    more = content("more", count=8, val_fraction=0.5)
    assert more["train/000003.jpg"] == first["train/000003.jpg"]  # a scene depends on the seed and its number alone
    assert content("other", seed=1)["train/000000.jpg"] != first["train/000000.jpg"]


def test_all_or_nothing(tmp_path, monkeypatch):
    calls = []

    def fails_late(image):
        calls.append(image)
        if len(calls) == 5:
            raise OSError("no space left")
        return b"jpeg"

    monkeypatch.setattr(scenes, "_jpeg", fails_late)
    with pytest.raises(OSError, match="no space left"):
        make_scenes(tmp_path / "scenes", **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count must be positive"),
        ({"size": (31, 64)}, "size at least 32"),
        ({"seed": -1}, "seed not negative"),
        ({"val_fraction": 1.5}, "val_fraction must be from 0 to 1"),
        ({"crowded": float("nan")}, "crowded must be from 0 to 1"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_scenes(tmp_path / "scenes", **{**SMALL, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        make_scenes(tmp_path, **SMALL)
    with pytest.raises(FileExistsError):
        make_scenes(tmp_path / "note", **SMALL)
    assert (tmp_path / "note").read_text() == "mine"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert make_scenes(empty, **SMALL) == empty


def test_command(tmp_path, capsys):
    arguments = [str(tmp_path / "s"), "--count", "3", "--size", "64", "64", "--val-fraction", "0", "--seed", "5"]
    assert scenes.main(arguments) == 0
    assert "3 pictures" in capsys.readouterr().out
    listed = json.loads((tmp_path / "s" / "annotations" / "instances_train.json").read_text())
    assert len(listed["images"]) == 3 and listed["info"]["seed"] == 5
    assert scenes.main(arguments) == 1
    assert "not empty" in capsys.readouterr().err


def test_without_scikit_image(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    photograph.cache_clear()
    with pytest.raises(ImportError, match="pip install scikit-image"):
        photograph("cat")
    assert scenes.main([str(tmp_path / "s"), "--count", "1"]) == 1
    assert "pip install scikit-image" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
