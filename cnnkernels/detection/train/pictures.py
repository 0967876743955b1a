"""The pictures of a training epoch, augmented; the same seed, epoch and place give the same picture."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cnnkernels.detection.augment import HsvJitter, MixUp, Mosaic, RandomAffine
from cnnkernels.detection.augment.warp import clip_boxes
from cnnkernels.detection.data.coco import CocoData
from cnnkernels.detection.letterbox import letterbox, normalise
from cnnkernels.detection.sample import Sample
from cnnkernels.detection.train.settings import Settings
from cnnkernels.detection.types import Targets
from cnnkernels.models.detection_network import Preprocessing

Item = tuple[Tensor, Tensor]


class TrainingPictures(Dataset[Item]):
    """Item i of an epoch: (x [3, size, size] float32, target [K, 5]).  ``set_epoch`` before each epoch."""

    def __init__(self, data: CocoData, preprocessing: Preprocessing, settings: Settings) -> None:
        self.data, self.preprocessing, self.settings = data, preprocessing, settings
        fill = round(sum(preprocessing.fill) / 3)
        size = (settings.size, settings.size)
        self._mosaic = Mosaic(size, RandomAffine(scale=(0.6, 1.4), fill=fill))
        self._affine = RandomAffine(scale=(0.8, 1.25), fill=fill)
        self._jitter, self._mixup = HsvJitter(), MixUp()
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that live on

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Item:
        epoch = int(self._epoch)
        rng = np.random.default_rng([self.settings.seed, epoch, index])
        mixed = epoch < self.settings.epochs - self.settings.plain_epochs
        sample = self._one(index, rng, mixed)
        if mixed and rng.random() < self.settings.mixup:
            sample = self._mixup(sample, self._one(self._any(rng), rng, mixed), rng)
        sample = self._jitter(sample, rng)
        return normalise(sample.image, self.preprocessing), sample.target()

    def _any(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.data)))

    def _one(self, index: int, rng: np.random.Generator, mixed: bool) -> Sample:
        if mixed and rng.random() < self.settings.mosaic:
            return self._mosaic([self.data[i] for i in (index, *(self._any(rng) for _ in range(3)))], rng)
        return self._affine(self._fitted(self.data[index]), rng)

    def _fitted(self, sample: Sample) -> Sample:
        """In a square of the network's size."""
        size = self.settings.size
        image, place = letterbox(sample.image, size, stride=1, adaptive=False, fill=self.preprocessing.fill)
        boxes = place.to_input(torch.from_numpy(sample.boxes)).numpy()
        return Sample(image, *clip_boxes(boxes, sample.labels, (size, size)))


def collate(items: list[Item]) -> tuple[Tensor, Targets]:
    return torch.stack([x for x, _ in items]), [target for _, target in items]
