"""Augmentations of pictures with boxes; each takes samples and a NumPy generator, and the same generator gives the same."""

from cnnkernels.detection.augment.affine import RandomAffine
from cnnkernels.detection.augment.colour import HsvJitter
from cnnkernels.detection.augment.mixup import MixUp, YoloxMixUp
from cnnkernels.detection.augment.mosaic import Mosaic
from cnnkernels.detection.augment.sat import self_adversarial

__all__ = ["HsvJitter", "MixUp", "Mosaic", "RandomAffine", "YoloxMixUp", "self_adversarial"]
