"""The command ``cnnkernels detect``."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import torch

from cnnkernels import _boxes
from cnnkernels._files import write_whole
from cnnkernels._progress import progress
from cnnkernels.detection.detector import Detector
from cnnkernels.detection.drawing import draw_detections
from cnnkernels.detection.images import encode, read_image
from cnnkernels.detection.sample import Image
from cnnkernels.detection.types import Detections

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, and folders of pictures")
    parser.add_argument("--model", required=True, help="a detector: yolox_s, yolov4_tiny, efficientdet_d0, ...")
    parser.add_argument("--weights", metavar="FILE", help="checkpoint: .safetensors, .pth, .weights (Darknet)")
    parser.add_argument(
        "--names", metavar="FILE", help="names of the classes, one a line (default: the weights', COCO)"
    )
    parser.add_argument("--out", metavar="DIR", default="detections", help="where results go (default %(default)s)")
    parser.add_argument("--size", type=int, help="of the network's input (default: the weights', the published one)")
    parser.add_argument("--score", type=float, default=0.25, help="least score of a box (default %(default)s)")
    parser.add_argument("--iou", type=float, default=0.45, help="overlap that NMS allows (default %(default)s)")
    parser.add_argument("--kind", choices=_boxes.CODES, default="diou", help="measure of overlap (default %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="pictures computed at once (default %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--half", action="store_true", help="compute in float16 (on a GPU)")
    parser.add_argument("--no-pictures", action="store_true", help="JSON only")


def run(options: argparse.Namespace) -> int:
    """0; 1 if a picture was skipped, 2 for a request that makes no sense, 130 if it was interrupted."""
    try:
        pictures = find_pictures(options.images)
        if not pictures:
            raise ValueError(f"no pictures in {', '.join(options.images)}")
        if options.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"--device {options.device}: torch sees no GPU here")
        if not (0 <= options.score <= 1 and 0 <= options.iou <= 1):
            raise ValueError("--score and --iou must be between 0 and 1")
        detector = Detector(
            options.model,
            options.weights,
            names=None if options.names is None else _names(options.names),
            size=options.size,
            score_threshold=options.score,
            iou_threshold=options.iou,
            kind=options.kind,
            device=options.device,
            dtype=torch.float16 if options.half else torch.float32,
            batch_size=options.batch,
        )
        out = pathlib.Path(options.out)
        out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError, ImportError) as e:
        print(f"cnnkernels detect: {e}", file=sys.stderr)
        return 2
    if options.weights is None:
        print("cnnkernels detect: no --weights: random ones, whose boxes mean nothing", file=sys.stderr)
    return _Run(detector, out, not options.no_pictures).all(pictures)


def find_pictures(given: Sequence[str]) -> list[pathlib.Path]:
    """The files given, and those of the folders given that are called like pictures, each once, folders in order."""
    found: dict[pathlib.Path, None] = {}
    for name in given:
        path = pathlib.Path(name)
        if path.is_dir():
            found.update(dict.fromkeys(sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)))
        else:
            found[path] = None  # a missing file is reported in its turn
    return list(found)


def _names(path: str) -> list[str]:
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ValueError(f"{path}: no names, one a line")
    return names


class _Run:
    """One pass over the pictures; what cannot be read or written is reported, and the rest goes on."""

    def __init__(self, detector: Detector, out: pathlib.Path, pictures: bool) -> None:
        self.detector, self.out, self.pictures = detector, out, pictures
        self.skipped = self.objects = 0
        self.used: Counter[str] = Counter()

    def all(self, paths: Sequence[pathlib.Path]) -> int:
        interrupted = False
        try:
            with progress("detecting", len(paths)) as advance:
                for batch in self._read(paths):
                    for (path, image), found in zip(batch, self.detector.detect([i for _, i in batch]), strict=True):
                        self._write(path, image, found)
                        advance(path.name)
        except KeyboardInterrupt:
            interrupted = True
            print("interrupted", file=sys.stderr)
        done = sum(self.used.values())
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        print(f"{self.objects} objects in {done} pictures{skipped}; written to {self.out}")
        return 130 if interrupted else int(self.skipped > 0)

    def _read(self, paths: Sequence[pathlib.Path]) -> Iterator[list[tuple[pathlib.Path, Image]]]:
        batch: list[tuple[pathlib.Path, Image]] = []
        for path in paths:
            try:
                batch.append((path, read_image(path)))
            except (ValueError, OSError) as e:
                self._skip(str(e))
            if len(batch) == self.detector.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _skip(self, why: str) -> None:
        self.skipped += 1
        print(f"skipped: {why}", file=sys.stderr)

    def _write(self, path: pathlib.Path, image: Image, found: Detections) -> None:
        """Boxes as JSON, then the picture; two pictures of one name get numbers."""
        self.used[path.stem] += 1
        stem = path.stem if self.used[path.stem] == 1 else f"{path.stem}-{self.used[path.stem]}"
        height, width = image.shape[:2]
        content = {
            "image": str(path),
            "width": width,
            "height": height,
            "objects": found.as_dicts(self.detector.names),
        }
        try:
            write_whole(self.out / f"{stem}.json", (json.dumps(content, indent=1) + "\n").encode())
            if self.pictures:
                drawn = draw_detections(image, found, self.detector.names)
                suffix = ".png" if path.suffix.lower() == ".png" else ".jpg"
                write_whole(self.out / f"{stem}{suffix}", encode(drawn, suffix))
        except OSError as e:
            self._skip(f"{path}: {e}")
            return
        self.objects += len(found)
        names = Counter(self.detector.names[i] for i in found.labels.tolist())
        what = ", ".join(f"{n} {name}" for name, n in names.most_common()) or "nothing"
        print(f"{path}: {what}")
