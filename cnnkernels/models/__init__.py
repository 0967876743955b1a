"""Networks by name: ``create_model("mobilenet_v2")``, ``list_models("mobilenet*")``; one file per family."""

import importlib
import pkgutil

from cnnkernels.models.network import Network
from cnnkernels.models.registry import create_model, list_models, model_entry

for _module in pkgutil.iter_modules(__path__):  # every file registers its networks
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Network", "create_model", "list_models", "model_entry"]
