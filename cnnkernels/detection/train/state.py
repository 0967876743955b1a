"""last.pt: what a training needs to go on."""

from __future__ import annotations

import io
import os
import pathlib
import pickle
from dataclasses import asdict
from typing import Any

import torch

from cnnkernels._files import write_whole
from cnnkernels.detection.train.settings import Settings

FORMAT = 1
FREE = ("device", "workers", "evaluate_every", "eval_size")
"""Settings that may change between two runs of one training."""


def write_state(path: pathlib.Path, settings: Settings, names: list[str], content: dict[str, Any]) -> None:
    """Replaces the file once all is on disk."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "settings": asdict(settings), "names": names, **content}, buffer)
    write_whole(path, buffer.getvalue())


def read_state(path: str | os.PathLike[str], settings: Settings, names: list[str]) -> dict[str, Any]:
    """The content, tensors on the CPU.  ValueError if it is damaged, or of a training with other settings."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        before, version = state["settings"], state["format"]
    except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: not the state of a training, or damaged: {error}") from error
    if version != FORMAT:
        raise ValueError(f"{path}: of another version of cnnkernels; begin in another folder")
    now = asdict(settings)
    changed = [f"{k} {before.get(k)} -> {v}" for k, v in now.items() if k not in FREE and before.get(k) != v]
    if state["names"] != names:
        changed.append(f"classes {state['names']} -> {names}")
    if changed:
        raise ValueError(
            f"{path}: this training began with other settings ({', '.join(changed)}); begin in another folder"
        )
    return state  # type: ignore[no-any-return]
