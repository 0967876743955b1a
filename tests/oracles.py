"""Networks of other packages, to compare with; the test is skipped where a package is not installed."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import io
import sys
from contextlib import redirect_stdout
from types import ModuleType
from typing import Any

import pytest
from torch import nn

from tests import torchvision_oracle

PACKAGES = ("torchvision", "timm", "pytorchcv", "pretrainedmodels", "yolox", "effdet")
UNUSED = ("cv2", "thop")
"""Imported by yolox for what no test does (reading pictures, counting operations)."""


def package(name: str) -> ModuleType:
    """One of PACKAGES.  timm and pretrainedmodels import torchvision, which a CPU build of torch must be helped with."""
    if torchvision_oracle.torchvision() is None:
        pytest.skip(torchvision_oracle.why_not())
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install --no-deps -r requirements-no-deps.txt")
    for unused in UNUSED if name == "yolox" else ():
        if importlib.util.find_spec(unused) is None and unused not in sys.modules:
            sys.modules[unused] = _absent(unused)
    return importlib.import_module(name)


def _absent(name: str) -> ModuleType:
    """A module in the place of one that is not installed; any attribute of it is None."""
    module: Any = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__getattr__ = lambda attribute: None
    return module


def torchvision_model(name: str, **kw: Any) -> nn.Module:
    package("torchvision")
    models = importlib.import_module("torchvision.models")
    return getattr(models, name)(**kw)


def timm_model(name: str, **kw: Any) -> nn.Module:
    return package("timm").create_model(name, pretrained=False, **kw)


def pytorchcv_model(name: str, **kw: Any) -> nn.Module:
    package("pytorchcv")
    return importlib.import_module("pytorchcv.model_provider").get_model(name, pretrained=False, **kw)


def pytorchcv_any_size(name: str, **kw: Any) -> nn.Module:
    """Its last pooling, 7x7, replaced by one over the whole map, which is the same at the published image size."""
    model: Any = pytorchcv_model(name, **kw)
    assert isinstance(model.features.final_pool, nn.AvgPool2d)
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return model


def pretrainedmodels_model(name: str, **kw: Any) -> nn.Module:
    module = package("pretrainedmodels")
    with redirect_stdout(io.StringIO()):
        return module.__dict__[name](pretrained=None, **kw)


def yolox_model(depth: float, width: float, depthwise: bool = False, num_classes: int = 80) -> Any:
    """YOLOX of the PyPI package, with its batch norms' eps and momentum as its experiments set them."""
    package("yolox")
    models = importlib.import_module("yolox.models")
    widths = {"in_channels": [256, 512, 1024], "act": "silu", "depthwise": depthwise}
    model = models.YOLOX(models.YOLOPAFPN(depth, width, **widths), models.YOLOXHead(num_classes, width, **widths))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03
    return model


def effdet_model(name: str, **kw: Any) -> Any:
    """EfficientDet of the package effdet, without its post-processing."""
    package("timm")
    return package("effdet").create_model(name, pretrained=False, pretrained_backbone=False, **kw)
