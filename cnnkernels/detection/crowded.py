"""What DIoU-NMS keeps that plain NMS loses: objects that overlap, whose centres lie apart.

    python -m cnnkernels.detection.crowded --data scenes --weights best.safetensors -o crowded.png

One detector, one threshold, the same predictions; only the measure of overlap differs (Zheng et al. 2019,
arXiv:1911.08287, figure 6).
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnkernels._files import write_whole
from cnnkernels.detection._pillow import Image as Pillow
from cnnkernels.detection._pillow import ImageDraw, ImageFont
from cnnkernels.detection.boxes import box_iou_matrix
from cnnkernels.detection.data.coco import CocoData
from cnnkernels.detection.detector import Detector
from cnnkernels.detection.drawing import draw_detections
from cnnkernels.detection.images import encode
from cnnkernels.detection.sample import Image, Sample
from cnnkernels.detection.types import Detections
from cnnkernels.detection.weights import read_about

MATCH = 0.5
"""IoU from which a box has found an object."""


@dataclass(frozen=True)
class Counts:
    """Over all pictures."""

    objects: int
    found: dict[str, int]
    """Kind of NMS -> objects that one of its boxes is matched to."""
    boxes: dict[str, int]
    """Kind -> boxes in all."""
    lost: int
    """Objects that DIoU-NMS has and plain NMS has not."""
    gained: int
    """Objects that plain NMS has and DIoU-NMS has not."""

    def text(self) -> str:
        lines = [f"{'NMS':<8}{'objects found':>16}{'boxes':>8}{'precision':>12}"]
        for kind, found in self.found.items():
            boxes = self.boxes[kind]
            share = f"{found / boxes:.1%}" if boxes else "-"
            lines.append(f"{kind:<8}{f'{found} of {self.objects}':>16}{boxes:>8}{share:>12}")
        lines.append(f"found by diou alone: {self.lost}; by iou alone: {self.gained}")
        return "\n".join(lines)


def found_objects(found: Detections, sample: Sample) -> Tensor:
    """[K] bool: which objects of ``sample`` have a box of their class with an IoU from MATCH up, each box for one object."""
    truth, labels = torch.from_numpy(sample.boxes), torch.from_numpy(sample.labels)
    taken = torch.zeros(len(labels), dtype=torch.bool)
    if not len(found) or not len(labels):
        return taken
    overlap = box_iou_matrix(found.boxes, truth, "iou")
    overlap = torch.where(found.labels[:, None] == labels, overlap, 0.0)
    for row in overlap:  # by falling score, as COCO matches
        row = torch.where(taken, 0.0, row)
        best = int(row.argmax())
        if row[best] >= MATCH:
            taken[best] = True
    return taken


def _with(detector: Detector, kind: str) -> Detector:
    """The same detector with another kind of NMS."""
    other = copy.copy(detector)
    other.options = {**detector.options, "kind": kind}
    return other


def compare(detector: Detector, data: CocoData) -> tuple[Counts, list[tuple[int, Tensor]]]:
    """Counts, and (picture, its objects that plain NMS alone has lost [K] bool), most losses first."""
    found: dict[str, list[Detections]] = {}
    images = [data[i] for i in range(len(data))]
    for kind in ("iou", "diou"):
        found[kind] = _with(detector, kind)(iter([s.image for s in images]))
    hits = {k: [found_objects(d, s) for d, s in zip(v, images, strict=True)] for k, v in found.items()}
    lost = [b & ~a for a, b in zip(hits["iou"], hits["diou"], strict=True)]
    gained = [a & ~b for a, b in zip(hits["iou"], hits["diou"], strict=True)]
    counts = Counts(
        sum(len(s.labels) for s in images),
        {k: sum(int(h.sum()) for h in v) for k, v in hits.items()},
        {k: sum(len(d) for d in v) for k, v in found.items()},
        sum(int(t.sum()) for t in lost),
        sum(int(t.sum()) for t in gained),
    )
    order = sorted(range(len(lost)), key=lambda i: -int(lost[i].sum()))
    return counts, [(i, lost[i]) for i in order if lost[i].any()]


def figure(detector: Detector, data: CocoData, rows: Sequence[tuple[int, Tensor]], scale: int = 2) -> Image:
    """Pictures in two rows: above as plain NMS leaves them, the lost objects dashed; below as DIoU-NMS does."""
    columns = []
    for index, lost in rows:
        sample = data[index]
        large = np.asarray(
            Pillow.fromarray(sample.image).resize([scale * n for n in sample.image.shape[1::-1]])  # type: ignore[arg-type]
        )
        pair = []
        for kind in ("iou", "diou"):
            (found,) = _with(detector, kind)([sample.image])
            larger = Detections(found.boxes * scale, found.scores, found.labels)
            drawn = draw_detections(large, larger, detector.names)
            pair.append(_dashed(drawn, sample.boxes[lost.numpy()] * scale) if kind == "iou" else drawn)
        columns.append(np.concatenate([_titled(p, t) for p, t in zip(pair, ("plain NMS", "DIoU-NMS"), strict=True)]))
    gap = np.full((len(columns[0]), 8, 3), 255, np.uint8)
    return np.concatenate([part for column in columns for part in (column, gap)][:-1], axis=1)


def _titled(image: Image, title: str) -> Image:
    band = Pillow.new("RGB", (image.shape[1], 34), "white")
    ImageDraw.Draw(band).text((6, 5), title, fill="black", font=ImageFont.load_default(20))
    return np.concatenate([np.asarray(band), image])


def _dashed(image: Image, boxes: np.ndarray[Any, Any]) -> Image:
    canvas = Pillow.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    for x1, y1, x2, y2 in boxes.tolist():
        corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
        for (ax, ay), (bx, by) in pairwise(corners):
            steps = max(int(max(abs(bx - ax), abs(by - ay)) / 8), 1)
            for i in range(0, steps, 2):
                a, b = i / steps, min((i + 1) / steps, 1)
                line = (ax + (bx - ax) * a, ay + (by - ay) * a, ax + (bx - ax) * b, ay + (by - ay) * b)
                draw.line(line, fill=(255, 0, 0), width=5)
    return np.asarray(canvas)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cnnkernels.detection.crowded", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="a data set in COCO's format; its val part is used"
    )
    parser.add_argument("--weights", required=True, metavar="FILE", help="as the training writes them")
    parser.add_argument("-o", "--output", metavar="FILE", help="a picture of what plain NMS loses: .png or .jpg")
    parser.add_argument("--iou", type=float, default=0.45, help="threshold of both (default %(default)s)")
    parser.add_argument("--score", type=float, default=0.3, help="least score of a box (default %(default)s)")
    parser.add_argument("--pictures", type=int, default=3, help="in the picture (default %(default)s)")
    options = parser.parse_args(arguments)
    try:
        about = read_about(options.weights)
        if about is None:
            raise ValueError(f"{options.weights}: no weights that the training wrote")
        detector = Detector(
            about.model, options.weights, iou_threshold=options.iou, score_threshold=options.score, batch_size=16
        )
        data = CocoData.split(options.data, "val")
        counts, losses = compare(detector, data)
    except (ValueError, OSError, ImportError) as error:
        print(f"crowded: {error}", file=sys.stderr)
        return 2
    print(counts.text())
    if options.output is not None and losses:
        suffix = ".jpg" if options.output.endswith(".jpg") else ".png"
        write_whole(options.output, encode(figure(detector, data, losses[: options.pictures]), suffix))
        print(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
