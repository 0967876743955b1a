"""The tensors of a file that ``weights_only`` refuses, such as the whole pickled models of YOLOv5, by nothing but reading.

Such a file names classes and functions, and ordinary unpickling imports and calls them, whatever they are.  Here nothing
of the kind can happen, for two reasons:

* The reader is that of ``torch.load(weights_only=True)``: a small interpreter of its own, which imports nothing.  It knows a
  fixed list of names (tensors, their storages, ordered dictionaries) and refuses every other one, and every instruction
  beyond those that plain data needs.
* Names that are not on its list, it is told, mean ``Inert``, whichever they are.  That class takes any arguments, does nothing
  with them, and keeps as its attributes what the file says the object had.  So ``models.yolo.Model``, ``builtins.eval`` and
  a name that does not exist all become the same lifeless record.  (Names from the modules ``os``, ``posix``, ``nt`` and ``sys``
  torch refuses even so.)

Then the parameters and buffers of the records are collected by ``torch.nn.Module``'s three dictionaries.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator

import torch
from torch import Tensor


class Inert:
    """Stands for an object of any class: its attributes, and nothing that acts."""

    def __new__(cls, *args: object, **kw: object) -> Inert:
        return object.__new__(cls)

    def __init__(self, *args: object, **kw: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def read_pickled(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors by key of what the file has under "ema" (averaged weights), else "model", else of all that it holds.

    That may be a pickled ``nn.Module`` or a state dict beside objects of other classes.  On the CPU, half types as float32.
    Raises ValueError for a file without either, and for one with something that torch refuses to read.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(Inert, name) for name in names]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, ValueError, RuntimeError, EOFError, LookupError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read without running code from it: {error}") from None
    found = [content.get("ema"), content.get("model")] if isinstance(content, dict) else []
    for holder in (*found, content):
        state = _state(holder)
        if state:
            return {k: v.float() if v.dtype in (torch.float16, torch.bfloat16) else v for k, v in state.items()}
    raise ValueError(f'{path} does not hold a model or a state_dict (under "ema" or "model", or by itself)')


def _state(holder: object) -> dict[str, Tensor]:
    """Of a model's record or a state dict; empty for anything else."""
    if isinstance(holder, Inert):
        return dict(_tensors(holder, ""))
    if isinstance(holder, dict) and all(isinstance(v, Tensor) for v in holder.values()):
        return {str(k): v for k, v in holder.items()}
    return {}


def _tensors(module: object, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """As ``module.state_dict()`` would give them."""
    attributes = vars(module) if isinstance(module, Inert) else {}
    parameters, buffers, children = (attributes.get(f"_{kind}") for kind in ("parameters", "buffers", "modules"))
    passing = attributes.get("_non_persistent_buffers_set")
    for kind in (parameters, buffers):
        for name, tensor in kind.items() if isinstance(kind, dict) else ():
            if isinstance(tensor, Tensor) and not (kind is buffers and isinstance(passing, set) and name in passing):
                yield f"{prefix}{name}", tensor.detach()
    for name, child in children.items() if isinstance(children, dict) else ():
        yield from _tensors(child, f"{prefix}{name}.")
