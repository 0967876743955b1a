"""Networks of other packages, to compare with; the test is skipped where a package is not installed."""

from __future__ import annotations

import importlib
import importlib.util
import io
from contextlib import redirect_stdout
from types import ModuleType
from typing import Any

import pytest
from torch import nn

from tests import torchvision_oracle

PACKAGES = ("torchvision", "timm", "pytorchcv", "pretrainedmodels")


def package(name: str) -> ModuleType:
    """One of PACKAGES.  timm and pretrainedmodels import torchvision, which a CPU build of torch must be helped with."""
    if torchvision_oracle.torchvision() is None:
        pytest.skip(torchvision_oracle.why_not())
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install --no-deps -r requirements-no-deps.txt")
    return importlib.import_module(name)


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
