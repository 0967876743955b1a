"""Average precision of a detector on a data set in COCO's format, by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnkernels.detection.data.coco import CocoData
from cnnkernels.detection.detector import Detector
from cnnkernels.detection.types import Detections


@dataclass(frozen=True)
class Precision:
    """COCO's figures, from 0 to 1."""

    map: float
    """Mean over the classes and the IoU thresholds 0.50, 0.55, ..., 0.95."""
    map50: float
    """At an IoU of 0.5."""
    map75: float


def evaluate(detector: Detector, data: CocoData, progress: Callable[[str], None] = lambda name: None) -> Precision:
    """Detects the objects of every picture and compares them with the boxes of the file.

    detector: its score threshold should be low (0.01 or less), or the curve ends early.
    progress: called with a word after every batch.
    Raises ValueError where the detector's classes are not the file's, ImportError without faster-coco-eval.
    """
    if list(detector.names) != list(data.names):
        raise ValueError(f"evaluate: the detector's classes are {detector.names}, those of the data {data.names}")
    found: list[Detections] = []
    for start in range(0, len(data), detector.batch_size):
        indices = range(start, min(start + detector.batch_size, len(data)))
        found += detector.detect([data[i].image for i in indices])
        progress(f"{indices.stop} of {len(data)}")
    return precision(found, data)


def precision(found: list[Detections], data: CocoData) -> Precision:
    """The figures of what was found in the pictures of ``data``, in their order."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise ImportError("average precision needs faster-coco-eval: pip install faster-coco-eval") from None
    results: list[dict[str, Any]] = []
    for index, detections in enumerate(found):
        for score, label, box in zip(
            detections.scores.tolist(), detections.labels.tolist(), detections.boxes.tolist(), strict=True
        ):
            x1, y1, x2, y2 = box
            results.append(
                {
                    "image_id": data.image_id(index),
                    "category_id": data.category_ids[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": score,
                }
            )
    if not results:
        return Precision(0.0, 0.0, 0.0)
    truth = COCO(str(data.annotations))
    evaluation = COCOeval_faster(truth, truth.loadRes(results), iouType="bbox")
    evaluation.params.imgIds = [data.image_id(i) for i in range(len(data))]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    map_, map50, map75 = (float(v) for v in np.nan_to_num(evaluation.stats[:3], nan=0.0).clip(min=0))
    return Precision(map_, map50, map75)
