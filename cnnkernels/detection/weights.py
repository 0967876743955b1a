"""Files of a detector's weights: safetensors that also say which network they are for and what its classes are called."""

from __future__ import annotations

import json
import os
import pathlib
from dataclasses import dataclass
from typing import Any

from torch import nn

from cnnkernels._files import write_whole

KEY = "cnnkernels"


@dataclass(frozen=True)
class About:
    """What a file of ``save`` says beside the tensors."""

    model: str
    """Its name for ``create_model``."""
    names: list[str]
    """Of the classes, by id."""
    size: int
    """Height and width of the images that it was trained on."""


def save(model: nn.Module, path: str | os.PathLike[str], about: About) -> None:
    """Writes the model's state_dict and ``about``; the file is replaced when all of it has been written."""
    try:
        from safetensors.torch import save as serialised
    except ImportError:
        raise ImportError("weights are written by safetensors: pip install safetensors") from None
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    content = {"model": about.model, "names": about.names, "size": about.size}
    write_whole(path, serialised(tensors, {KEY: json.dumps(content)}))


def read_about(path: str | os.PathLike[str]) -> About | None:
    """What the file says about itself; None for files that other programs wrote.  ValueError if it is damaged."""
    path = pathlib.Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise ImportError(f"{path.name} needs the package safetensors: pip install safetensors") from None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
        return None if text is None else _about(json.loads(text))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged: {error}") from error


def _about(content: dict[str, Any]) -> About:
    names = content["names"]
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ValueError("names must be a list of strings")
    return About(str(content["model"]), names, int(content["size"]))
