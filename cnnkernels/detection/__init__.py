"""Detectors from picture to boxes and from data to weights: post-processing, losses, assignment, data, augmentation."""

from cnnkernels.detection.detector import Detector
from cnnkernels.detection.postprocess import Found, postprocess
from cnnkernels.detection.types import Detections, Targets

__all__ = ["Detections", "Detector", "Found", "Targets", "postprocess"]
