"""``Detector``: pictures in, boxes out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnkernels.detection import weights as weight_files
from cnnkernels.detection.images import from_pillow, read_image
from cnnkernels.detection.letterbox import Letterbox, prepare
from cnnkernels.detection.names import default_names
from cnnkernels.detection.postprocess import postprocess
from cnnkernels.detection.sample import Image
from cnnkernels.detection.types import Detections
from cnnkernels.models import create_model, model_entry
from cnnkernels.models.detection_network import DetectionNetwork

Picture = Any
"""A path, the bytes of a file, a Pillow image, a uint8 array [H, W, 3] or [H, W], or a uint8 tensor [3, H, W]: RGB."""


class Detector:
    """A network with everything around it: letterbox, normalisation, decoding, NMS, boxes back in the picture's pixels.

    model: a name of ``list_models(task="detection")``, or such a network, which goes into evaluation.
    weights: a checkpoint as ``create_model(pretrained=...)`` takes it.  One that ``cnnkernels.detection.weights.save``
        wrote also brings class names and image size.  None: random weights, for measuring speed.
    names: of the classes, by id; by default the file's, else COCO's for 80 and 90 classes.
    size: of the network's input, a multiple of its largest stride; default: the file's, else the published one.
    score_threshold, iou_threshold, kind, beta, max_detections, class_agnostic: as ``postprocess`` takes them.
    adaptive: pad pictures to the next multiple of the stride rather than to the whole of ``size``.
    device, dtype: where and in what the network computes.
    batch_size: pictures computed at once.

    Raises ValueError for unknown names, sizes and files that do not fit; FileNotFoundError.
    """

    def __init__(
        self,
        model: str | DetectionNetwork,
        weights: str | os.PathLike[str] | None = None,
        *,
        names: Sequence[str] | None = None,
        size: int | None = None,
        score_threshold: float = 0.25,
        iou_threshold: float = 0.45,
        kind: str = "diou",
        beta: float = 1.0,
        max_detections: int = 300,
        class_agnostic: bool = False,
        adaptive: bool = True,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        batch_size: int = 8,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"Detector: batch_size must be at least 1, got {batch_size}")
        about = None if weights is None else weight_files.read_about(weights)
        if isinstance(model, str):
            entry = model_entry(model)
            if entry.task != "detection":
                raise ValueError(
                    f"Detector: {model} is for {entry.task}; list_models(task='detection') names detectors"
                )
            if about is not None and about.model != model:
                raise ValueError(f"Detector: {weights} holds weights of {about.model}, got model={model!r}")
            classes = len(names) if names is not None else len(about.names) if about is not None else None
            network = create_model(model, False if weights is None else os.fspath(weights), num_classes=classes)
            published = entry.input_size
        else:
            if weights is not None:
                raise ValueError("Detector: weights are for a model given by name; load them into the network itself")
            network, published = model, 640
        self.network: DetectionNetwork = network.eval().to(device=device, dtype=dtype)
        self.names = list(names or (about.names if about else default_names(network.num_classes)))
        if len(self.names) != network.num_classes:
            raise ValueError(f"Detector: the network has {network.num_classes} classes, got {len(self.names)} names")
        self.size = size or (about.size if about else published)
        self.stride = max(network.strides)
        if self.size < 1 or self.size % self.stride:
            raise ValueError(f"Detector: size must be a multiple of {self.stride}, got {self.size}")
        self.adaptive = adaptive
        self.device, self.dtype, self.batch_size = torch.device(device), dtype, batch_size
        self.options: dict[str, Any] = {
            "score_threshold": score_threshold,
            "iou_threshold": iou_threshold,
            "kind": kind,
            "beta": beta,
            "max_detections": max_detections,
            "class_agnostic": class_agnostic,
        }

    def __call__(self, pictures: Picture | Iterable[Picture]) -> list[Detections]:
        """What is in each picture, in their order.

        pictures: one or several, each as ``Picture`` says.  Returns a list also for one.
        Raises ValueError or OSError for the first that cannot be read; nothing is computed of that batch then.
        """
        several = [pictures] if _is_one(pictures) else pictures
        found: list[Detections] = []
        for batch in _batches(several, self.batch_size):
            found += self.detect([as_image(p) for p in batch])
        return found

    @torch.inference_mode()
    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """The same of decoded images, uint8 [H, W, 3], all computed at once where their inputs have one shape."""
        prepared = [
            prepare(i, self.network.preprocessing, self.size, stride=self.stride, adaptive=self.adaptive)
            for i in images
        ]
        shapes: dict[torch.Size, list[int]] = {}
        for index, (x, _) in enumerate(prepared):
            shapes.setdefault(x.shape, []).append(index)
        results: dict[int, Detections] = {}
        for group in shapes.values():
            x = torch.stack([prepared[i][0] for i in group]).to(device=self.device, dtype=self.dtype)
            found = postprocess(self.network(x), **self.options).to_list()
            results |= {i: _in_picture(d, prepared[i][1]) for i, d in zip(group, found, strict=True)}
        return [results[i] for i in range(len(images))]


def as_image(picture: Picture) -> Image:
    """A ``Picture`` as uint8 [H, W, 3].  ValueError for one that is none of these, or cannot be read; OSError."""
    if isinstance(picture, (str, os.PathLike, bytes)):
        return read_image(picture)
    if isinstance(picture, Tensor):
        if picture.dim() != 3 or picture.shape[0] != 3 or picture.dtype is not torch.uint8:
            raise ValueError(f"a tensor must be uint8 [3, H, W], got {picture.dtype} {list(picture.shape)}")
        return picture.permute(1, 2, 0).contiguous().cpu().numpy()
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)):
            raise ValueError(f"an array must be uint8 [H, W, 3] or [H, W], got {picture.dtype} {list(picture.shape)}")
        return np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture
    return from_pillow(picture)


def _is_one(pictures: Any) -> bool:
    return not isinstance(pictures, (list, tuple, Iterator))


def _batches(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    batch: list[Picture] = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _in_picture(found: Detections, place: Letterbox) -> Detections:
    boxes = place.to_picture(found.boxes.cpu())
    visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])  # not in the padding
    return Detections(boxes[visible], found.scores.cpu()[visible], found.labels.cpu()[visible])
