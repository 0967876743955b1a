"""Trains a detector on data in COCO's format: ``python -m cnnkernels.detection.train``."""

from cnnkernels.detection.train.settings import Settings
from cnnkernels.detection.train.trainer import Trainer

__all__ = ["Settings", "Trainer"]
