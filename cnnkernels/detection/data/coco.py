"""Detection data in COCO's format: pictures in a folder, boxes in one JSON file."""

from __future__ import annotations

import json
import math
import os
import pathlib
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
from torch.utils.data import Dataset

from cnnkernels.detection.images import read_image
from cnnkernels.detection.sample import Sample


@dataclass(frozen=True)
class _Picture:
    image_id: int
    name: str
    size: tuple[int, int]
    boxes: list[tuple[float, float, float, float]]
    labels: list[int]


class CocoData(Dataset[Sample]):
    """Pictures with boxes, as COCO's ``instances_*.json`` lists them; ``data[i]`` is a ``Sample``.

    annotations: the JSON file.
    folder: where the pictures are; names in the file are relative to it.
    bad: what to do about a picture that is missing, truncated or of another size than the file says.  "raise": a missing
        one raises FileNotFoundError here, another one ValueError when it is asked for.  "skip": every picture is read
        once, here, and those that cannot be used are left out, with one warning and their names in ``left_out``.

    Class ids count from 0 in the order of the file's category ids (``category_ids[label]``, ``names[label]``).  Boxes
    are clipped to their picture; those left with no area are dropped, and so are crowd regions (``iscrowd``), which are
    there for evaluation; ``dropped`` counts both.  Pictures without boxes stay.

    FileNotFoundError without the JSON file; ValueError, saying which entry, if it is no COCO file: broken JSON, missing
    fields, ids twice or unknown, boxes that are not four finite numbers, no classes, no pictures.
    """

    def __init__(
        self,
        annotations: str | os.PathLike[str],
        folder: str | os.PathLike[str],
        *,
        bad: Literal["raise", "skip"] = "raise",
    ) -> None:
        if bad not in ("raise", "skip"):
            raise ValueError(f"CocoData: bad must be 'raise' or 'skip', got {bad!r}")
        self.annotations = pathlib.Path(annotations)
        self.folder = pathlib.Path(folder)
        self.dropped: Counter[str] = Counter(empty=0, crowd=0)
        """Boxes that are not in the samples, by reason."""
        self.left_out: dict[str, str] = {}
        """Pictures that could not be used, and why."""
        content = _Content(self.annotations)
        self.category_ids, self.names = content.categories()
        self._pictures = content.pictures(self.category_ids, self.dropped)
        if bad == "skip":
            self._leave_out_bad()
        elif missing := [p.name for p in self._pictures if not (self.folder / p.name).is_file()]:
            some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise FileNotFoundError(
                f"{self.folder}: {len(missing)} of {len(self._pictures)} pictures are missing: {some}"
            )

    @classmethod
    def split(
        cls, root: str | os.PathLike[str], split: str = "train", *, bad: Literal["raise", "skip"] = "raise"
    ) -> CocoData:
        """The part of a data set laid out as COCO's: ``root/annotations/instances_{split}.json`` and ``root/{split}/``."""
        root = pathlib.Path(root)
        return cls(root / "annotations" / f"instances_{split}.json", root / split, bad=bad)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Sample:
        picture = self._pictures[index]
        image = read_image(self.folder / picture.name)
        if image.shape[:2] != picture.size:
            height, width = picture.size
            raise ValueError(
                f"{self.folder / picture.name}: {image.shape[1]} x {image.shape[0]} pixels, "
                f"where {self.annotations.name} says {width} x {height}"
            )
        boxes = np.array(picture.boxes, np.float32).reshape(-1, 4)
        return Sample(image, boxes, np.array(picture.labels, np.int64))

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def image_id(self, index: int) -> int:
        """The file's id of picture ``index``, for evaluation."""
        return self._pictures[index].image_id

    def sides(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Width and height [K, 2] of every box, as its picture is when scaled to a longer side of 1: for anchors."""
        scaled = [
            ((x2 - x1) / max(p.size), (y2 - y1) / max(p.size)) for p in self._pictures for x1, y1, x2, y2 in p.boxes
        ]
        return np.array(scaled, np.float32).reshape(-1, 2)

    def _leave_out_bad(self) -> None:
        usable = []
        for index, picture in enumerate(self._pictures):
            try:
                self[index]
            except (OSError, ValueError) as error:
                self.left_out[picture.name] = str(error)
            else:
                usable.append(picture)
        self._pictures = usable
        if self.left_out:
            reasons = "; ".join(list(self.left_out.values())[:5])
            warnings.warn(f"{len(self.left_out)} pictures left out: {reasons}", stacklevel=3)
        if not usable:
            raise ValueError(f"{self.annotations}: no picture can be used")


class _Content:
    """The JSON file's three lists, each entry checked as it is read."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{path}: no JSON: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path}: a COCO file holds an object, got {type(content).__name__}")
        self._content = content

    def categories(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Ids and names by rising id."""
        found = self._by_id("categories", {"name": str})
        if not found:
            raise ValueError(f"{self.path}: no classes (categories is empty)")
        ids = sorted(found)
        return tuple(ids), tuple(found[i]["name"] for i in ids)

    def pictures(self, category_ids: tuple[int, ...], dropped: Counter[str]) -> list[_Picture]:
        """In the file's order, with their boxes; what is dropped is counted."""
        images = self._by_id("images", {"file_name": str, "height": int, "width": int})
        if not images:
            raise ValueError(f"{self.path}: no pictures (images is empty)")
        found = {}
        for image_id, entry in images.items():
            if entry["height"] < 1 or entry["width"] < 1:
                self._fail("images", entry, "height and width must be positive")
            found[image_id] = _Picture(image_id, entry["file_name"], (entry["height"], entry["width"]), [], [])
        labels = {category: label for label, category in enumerate(category_ids)}
        for entry in self._entries("annotations", {"image_id": int, "category_id": int, "bbox": list}):
            picture, label = found.get(entry["image_id"]), labels.get(entry["category_id"])
            if picture is None or label is None:
                self._fail("annotations", entry, f"unknown {'image_id' if picture is None else 'category_id'}")
            box = self._clipped(entry, picture.size)
            if entry.get("iscrowd", 0):
                dropped["crowd"] += 1
            elif box[2] <= box[0] or box[3] <= box[1]:
                dropped["empty"] += 1
            else:
                picture.boxes.append(box)
                picture.labels.append(label)
        return list(found.values())

    def _clipped(self, entry: dict[str, Any], size: tuple[int, int]) -> tuple[float, float, float, float]:
        values = entry["bbox"]
        numbers = len(values) == 4 and all(isinstance(v, int | float) and math.isfinite(v) for v in values)
        if not numbers:
            self._fail("annotations", entry, f"bbox must be four finite numbers, got {values}")
        x, y, width, height = (float(v) for v in values)
        right, bottom = min(x + width, size[1]), min(y + height, size[0])
        return max(x, 0.0), max(y, 0.0), right, bottom

    def _by_id(self, key: str, fields: dict[str, type]) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for entry in self._entries(key, {"id": int, **fields}):
            if entry["id"] in found:
                self._fail(key, entry, "its id comes twice")
            found[entry["id"]] = entry
        return found

    def _entries(self, key: str, fields: dict[str, type]) -> list[dict[str, Any]]:
        entries = self._content.get(key)
        if not isinstance(entries, list):
            raise ValueError(f"{self.path}: {key} must be a list, got {type(entries).__name__}")
        for entry in entries:
            if not isinstance(entry, dict):
                self._fail(key, entry, "must be an object")
            for field, kind in fields.items():
                if not isinstance(entry.get(field), kind) or isinstance(entry[field], bool):
                    self._fail(key, entry, f"{field} must be {kind.__name__}, got {entry.get(field)!r}")
        return entries

    def _fail(self, key: str, entry: object, why: str) -> NoReturn:
        which = entry.get("id", entry) if isinstance(entry, dict) else entry
        raise ValueError(f"{self.path}: {key}, id {which}: {why}")
