"""Synthetic detection data: shapes and cut-outs pasted on photographs, with exact boxes, in COCO's format.

    python -m cnnkernels.detection.data.scenes DIR --count 400

Nothing is downloaded: scikit-image's wheel carries the photographs.  The same arguments give the same bytes, as long as
NumPy and Pillow stay what they are.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkernels.detection._pillow import Image as Pillow
from cnnkernels.detection.data.objects import CLASSES, Patch, draw
from cnnkernels.detection.data.photographs import BACKGROUNDS, photograph
from cnnkernels.detection.sample import Image, Sample

SMALLEST, LARGEST = 0.09, 0.42
"""Longer side of a thing, as a share of the picture's shorter side."""


class Scene:
    """A picture in the making.

    A thing's box is the extent of its pixels in the picture, those that later things hide included.  A thing is left
    out where less than ``min_visible`` of its pixels would show, or where it would leave less than that of a thing that is
    there already; so everything in the picture can be found, and everything that can be found is listed.
    """

    def __init__(self, background: Image, min_visible: float) -> None:
        self.image = background.copy()
        self.min_visible = min_visible
        self.boxes: list[tuple[int, int, int, int]] = []
        self.labels: list[int] = []
        self._owner = np.full(background.shape[:2], -1, np.int32)
        self._pixels: list[int] = []

    def add(self, patch: Patch, label: int, x: float, y: float) -> bool:
        """Pastes a thing with its middle at x, y; False, and nothing done, where the rule leaves it out."""
        height, width = patch.alpha.shape
        left, top = round(x - width / 2), round(y - height / 2)
        x1, y1 = max(left, 0), max(top, 0)
        x2, y2 = min(left + width, self.image.shape[1]), min(top + height, self.image.shape[0])
        if x2 <= x1 or y2 <= y1:
            return False
        window = np.s_[y1:y2, x1:x2]
        inside = np.s_[y1 - top : y2 - top, x1 - left : x2 - left]
        mask = patch.alpha[inside] >= 0.5
        pixels = int((patch.alpha >= 0.5).sum())
        if not mask.any() or mask.sum() < self.min_visible * pixels or self._would_hide(window, mask):
            return False
        alpha = patch.alpha[inside][..., None]
        blend = alpha * patch.image[inside] + (1 - alpha) * self.image[window]
        self.image[window] = np.round(blend).astype(np.uint8)
        self._owner[window][mask] = len(self.labels)
        self._pixels.append(pixels)
        self.labels.append(label)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = (x1 + columns[0], y1 + rows[0], x1 + columns[-1] + 1, y1 + rows[-1] + 1)
        self.boxes.append((int(box[0]), int(box[1]), int(box[2]), int(box[3])))
        return True

    def _would_hide(self, window: tuple[slice, slice], mask: NDArray[np.bool_]) -> bool:
        after = self._owner.copy()
        after[window][mask] = -1
        shown = np.bincount(after[after >= 0], minlength=len(self._pixels))
        return bool((shown < self.min_visible * np.array(self._pixels)).any())

    def sample(self) -> Sample:
        boxes = np.array(self.boxes, np.float32).reshape(-1, 4)
        return Sample(self.image, boxes, np.array(self.labels, np.int64))


def make_scene(
    rng: np.random.Generator, size: tuple[int, int] = (320, 320), *, crowded: bool = False, min_visible: float = 0.3
) -> Sample:
    """One picture of ``size`` (height, width) with its boxes and labels (indices of ``CLASSES``).

    crowded: one or two rows of things of one class that overlap their neighbours, besides a few others.
    """
    scene = Scene(_background(rng, size), min_visible)
    height, width = size
    for _ in range(int(rng.integers(1, 3)) if crowded else 0):
        _add_row(scene, rng, size)
    for _ in range(int(rng.integers(1, 4) if crowded else rng.integers(2, 9))):
        label = int(rng.integers(len(CLASSES)))
        patch = draw(label, _side(rng, size), rng)
        scene.add(patch, label, rng.uniform(0, width), rng.uniform(0, height))
    while not scene.labels:
        scene.add(draw(0, LARGEST * min(size), rng), 0, width / 2, height / 2)
    return scene.sample()


def _side(rng: np.random.Generator, size: tuple[int, int]) -> float:
    return min(size) * math.exp(rng.uniform(math.log(SMALLEST), math.log(LARGEST)))


def _add_row(scene: Scene, rng: np.random.Generator, size: tuple[int, int]) -> None:
    """Things of one class and about one size along a line, each a quarter to two thirds of its size from the last."""
    label = int(rng.integers(len(CLASSES)))
    side = min(size) * rng.uniform(0.15, 0.35)
    direction = rng.uniform(0, 2 * math.pi)
    x, y = rng.uniform(0.2, 0.8) * size[1], rng.uniform(0.2, 0.8) * size[0]
    for _ in range(int(rng.integers(3, 7))):
        scene.add(draw(label, side * rng.uniform(0.92, 1.08), rng), label, x, y)
        step = side * rng.uniform(0.25, 0.67)
        x, y = x + step * math.cos(direction), y + step * math.sin(direction)
        direction += rng.uniform(-0.3, 0.3)


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Image:
    """Some part of some photograph, at some brightness, mirrored or not."""
    name = list(BACKGROUNDS)[int(rng.integers(len(BACKGROUNDS)))]
    x1, y1, x2, y2 = BACKGROUNDS[name] or (0, 0, *photograph(name).shape[1::-1])
    pixels = photograph(name)[y1:y2, x1:x2]
    share = rng.uniform(0.5, 1.0) * min(pixels.shape[0] / size[0], pixels.shape[1] / size[1])
    height, width = (max(int(side * share), 1) for side in size)
    top = int(rng.integers(pixels.shape[0] - height + 1))
    left = int(rng.integers(pixels.shape[1] - width + 1))
    crop = Pillow.fromarray(np.ascontiguousarray(pixels[top : top + height, left : left + width]))
    scaled = np.asarray(crop.resize((size[1], size[0]), Pillow.Resampling.BILINEAR), np.float32)
    tint = rng.uniform(0.55, 1.1) * rng.uniform(0.9, 1.1, 3)
    scaled = scaled[:, ::-1] if rng.random() < 0.5 else scaled
    return (scaled * tint).clip(0, 255).astype(np.uint8)


def make_scenes(
    folder: str | os.PathLike[str],
    count: int = 400,
    size: tuple[int, int] = (320, 320),
    seed: int = 0,
    val_fraction: float = 0.2,
    *,
    crowded: float = 0.3,
    min_visible: float = 0.3,
) -> pathlib.Path:
    """Writes ``count`` pictures and their boxes; returns the folder.

        folder/train/000000.jpg ...    and val/: JPEG of quality 92, colours not subsampled
        folder/annotations/instances_train.json, instances_val.json

    size: height and width in pixels, at least 32.
    val_fraction: share of the pictures, the last ones, that go to val.
    crowded: share of the pictures with rows of overlapping things of one class.
    min_visible: see ``Scene``.

    The folder appears whole or not at all.  FileExistsError if there is something in it already; ValueError for
    arguments out of range; ImportError without scikit-image.
    """
    shares = {"val_fraction": val_fraction, "crowded": crowded, "min_visible": min_visible}
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"make_scenes: {name} must be from 0 to 1, got {share}")
    if count < 1 or min(size) < 32 or seed < 0:
        raise ValueError(
            f"make_scenes: count must be positive, size at least 32 and seed not negative, got {count}, {size} and {seed}"
        )
    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"make_scenes: {folder} exists and is not empty")
    folder.parent.mkdir(parents=True, exist_ok=True)
    first_val = count - round(count * val_fraction)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        temporary.chmod(0o755)  # mkdtemp's folders are for their owner alone
        (temporary / "annotations").mkdir()
        for split, indices in (("train", range(first_val)), ("val", range(first_val, count))):
            _write_split(temporary, split, indices, size, seed, crowded, min_visible)
        temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def _write_split(
    folder: pathlib.Path,
    split: str,
    indices: range,
    size: tuple[int, int],
    seed: int,
    crowded: float,
    min_visible: float,
) -> None:
    (folder / split).mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in indices:
        rng = np.random.default_rng([seed, index])
        sample = make_scene(rng, size, crowded=bool(rng.random() < crowded), min_visible=min_visible)
        name = f"{index:06}.jpg"
        (folder / split / name).write_bytes(_jpeg(sample.image))
        images.append({"id": index + 1, "file_name": name, "height": size[0], "width": size[1]})
        for (x1, y1, x2, y2), label in zip(sample.boxes.tolist(), sample.labels.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)]
    info = {"description": "shapes and cut-outs on scikit-image's photographs, made by cnnkernels", "seed": seed}
    content = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def _jpeg(image: Image) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cnnkernels.detection.data.scenes",
        description="Makes a small detection data set, in COCO's format.",
    )
    parser.add_argument("folder", help="where to; must not exist, or be empty")
    parser.add_argument("--count", type=int, default=400, help="pictures (400)")
    parser.add_argument("--size", type=int, nargs=2, default=(320, 320), metavar=("HEIGHT", "WIDTH"), help="320 320")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--val-fraction", type=float, default=0.2, help="share of the pictures held out (0.2)")
    parser.add_argument(
        "--crowded", type=float, default=0.3, help="share of the pictures with overlapping things (0.3)"
    )
    given = parser.parse_args(arguments)
    try:
        folder = make_scenes(
            given.folder, given.count, tuple(given.size), given.seed, given.val_fraction, crowded=given.crowded
        )
    except (ImportError, OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(f"{given.count} pictures in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
