"""Networks by name: ``create_model("mobilenet_v2")``, ``list_models("mobilenet*")``."""

from cnnkernels.models.mobilenet_v2 import MobileNetV2
from cnnkernels.models.registry import create_model, list_models

__all__ = ["MobileNetV2", "create_model", "list_models"]
