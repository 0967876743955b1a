"""Which networks there are, and how one is made."""

from __future__ import annotations

import difflib
import fnmatch
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from cnnkernels import _backend
from cnnkernels.models.checkpoint import load_weights

TASKS = ("classification", "detection", "pose")


@dataclass(frozen=True)
class Entry:
    """One name that ``create_model`` takes."""

    name: str
    network: Callable[..., Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    input_size: int = 224
    """Height and width of the images that the published figures are for."""
    top1: float | None = None
    """Published accuracy on ImageNet, %, one crop: of the paper where it has one, else of torchvision's weights."""
    task: str = "classification"
    ap: float | None = None
    """Published COCO AP of a detector or pose network, %, at input_size."""
    input_width: int | None = None
    """Where images are not square; input_size is then their height."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.input_size, self.input_size if self.input_width is None else self.input_width

    @property
    def family(self) -> str:
        """Its file in ``cnnkernels.models`` and its page in ``docs/networks``."""
        return self.network.__module__.rpartition(".")[2]


_MODELS: dict[str, Entry] = {}


def register(
    name: str,
    network: Callable[..., Any],
    *,
    input_size: int = 224,
    input_width: int | None = None,
    top1: float | None = None,
    task: str = "classification",
    ap: float | None = None,
    **config: Any,
) -> None:
    """Makes ``create_model(name)`` return ``network(**config)``."""
    if name in _MODELS:
        raise ValueError(f"register: there is a network called {name!r} already")
    if task not in TASKS:
        raise ValueError(f"register: task must be one of {', '.join(TASKS)}, got {task!r}")
    _MODELS[name] = Entry(name, network, config, input_size, top1, task, ap, input_width)


def list_models(pattern: str = "*", task: str | None = None) -> list[str]:
    """Names that ``create_model`` takes, sorted; ``pattern`` as in a shell: "mobilenet*".

    task: only those for "classification", "detection" or "pose".
    """
    if task is not None and task not in TASKS:
        raise ValueError(f"list_models: task must be one of {', '.join(TASKS)}, got {task!r}")
    return sorted(n for n in fnmatch.filter(_MODELS, pattern) if task is None or _MODELS[n].task == task)


def model_entry(name: str) -> Entry:
    """What is known of a network without making it.  Raises ValueError for an unknown name, with similar ones."""
    if name not in _MODELS:
        near = difflib.get_close_matches(name, _MODELS, 5, 0.5) or list_models()[:5]
        raise ValueError(
            f"create_model: no network called {name!r}; similar: {', '.join(near)}; list_models() names all {len(_MODELS)}"
        )
    return _MODELS[name]


def create_model(
    name: str,
    pretrained: bool | str | os.PathLike[str] = False,
    num_classes: int | None = None,
    in_chans: int = 3,
    features_only: bool = False,
    backend: str | None = None,
    layout: str | None = None,
    **kw: Any,
) -> Any:
    """The network called ``name``, in training mode, with random weights or those of a file.

    pretrained: False, or the path of a checkpoint: ``.safetensors``, Darknet's ``.weights``, else a file that
        ``torch.load`` reads with ``weights_only=True`` (nothing else of it is ever unpickled).  Keys and shapes must
        match exactly; the file may also hold the layers that ``features_only`` or ``num_classes=0`` leave out.  Nothing
        is downloaded.
    layout: whose keys the file has: None for ours, "timm" where that differs (EfficientNet, MobileNetV2 and V3; see
        ``cnnkernels.models.convert``).
    num_classes: width of the classifier (default 1000), where 0 makes a model that returns what the classifier would
        see, [N, num_features]; classes of a detector (80); key points of a pose network (17, of MPII 16).
    in_chans: channels of the images.
    features_only: a network that returns a list of feature maps, described by ``model.channels`` and ``.strides``
        (classification networks).
    backend: for ``model.backend``: None, "cpu", "cuda", "triton", or "reference", which computes with the plain
        ``torch.nn`` children one after the other, from the same weights.
    kw: for the network: ``drop_rate`` (of the dropout before the classifier), ``out_indices`` (which feature maps),
        and what its class takes, such as ``width_mult``.

    Raises ValueError for an unknown name and for a file that does not fit, with the keys that are missing, unexpected
    or of another shape; FileNotFoundError.
    """
    entry = model_entry(name)
    if pretrained is True:
        raise ValueError("create_model: pretrained must be False or the path of a checkpoint; nothing is downloaded")
    if in_chans < 1:
        raise ValueError(f"create_model: in_chans must be at least 1, got {in_chans}")
    kw = {**entry.config, "in_chans": in_chans, **kw}
    if num_classes is not None:
        kw["num_classes"] = num_classes
    if features_only:
        if entry.task != "classification":
            raise ValueError(f"create_model: features_only is for classification networks, {name} is for {entry.task}")
        kw["features_only"] = True
    model = entry.network(**kw)
    model.backend = _backend.validated(backend, "create_model")
    if pretrained is not False:

        def whole() -> nn.Module:
            config = {k: v for k, v in kw.items() if k not in ("features_only", "out_indices")}
            with torch.device("meta"):
                return entry.network(**config)

        load_weights(model, pretrained, model.left_out, layout, whole)
    return model
