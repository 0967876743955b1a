"""Checkpoint files: read without unpickling, loaded strictly or not at all."""

from __future__ import annotations

import os
import pathlib
import pickle
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from cnnkernels.models import layout as layouts
from cnnkernels.models.network import Network

Reader = Callable[[nn.Module, str | os.PathLike[str]], dict[str, Tensor]]
_READERS: dict[str, Reader] = {}
Refused = Callable[[str | os.PathLike[str]], dict[str, Tensor]]


def register_reader(suffix: str, reader: Reader) -> None:
    """For files without keys: reader(network, path) returns their tensors by the keys of that whole network."""
    if suffix in _READERS:
        raise ValueError(f"register_reader: there is a reader of {suffix} files already")
    _READERS[suffix] = reader


def read_weights(path: str | os.PathLike[str], refused: Refused | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by key, on the CPU.  ``torch.save`` may have put them under "state_dict" or "model".

    refused: reads, without unpickling it either, a file that ``weights_only`` refuses.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file {path}")
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError:
            raise ImportError(f"{path.name} needs the package safetensors: pip install safetensors") from None
        return dict(load_file(path))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if refused is None:
            raise
        return refused(path)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} does not hold a state_dict (tensors by key)")
    return {str(k): v for k, v in content.items()}


def load_weights(
    model: nn.Module,
    path: str | os.PathLike[str],
    may_skip: Sequence[str] = (),
    layout: str | None = None,
    whole: Callable[[], nn.Module] | None = None,
) -> None:
    """Copies a checkpoint into the model if it fits exactly; else raises ValueError and has changed nothing.

    may_skip: beginnings of keys that the file may have and the model need not.
    layout: whose keys the file has, None for the model's own; the error names keys as the file has them.
    whole: makes the network with all its layers, by which layouts are found; None: the model is whole.
    """
    reader = _READERS.get(pathlib.Path(path).suffix)
    if reader is not None and layout is not None:
        raise ValueError(f"{path}: layout is for files with keys, which this one has not; got layout={layout!r}")
    if reader is None:
        in_file = read_weights(path, getattr(model, "read_refused", None))
    else:
        in_file = reader(model if whole is None else whole(), path)
    load_state(model, in_file, path, may_skip, layout, whole)


def load_state(
    model: nn.Module,
    in_file: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    may_skip: Sequence[str] = (),
    layout: str | None = None,
    whole: Callable[[], nn.Module] | None = None,
) -> None:
    """``load_weights`` of tensors that have been read from ``path`` already."""
    own = model.state_dict()
    names: layouts.Names = {}
    given, unknown = dict(in_file), list[str]()
    if layout is not None:
        names = layouts.names_of(_network(model, whole), layout)
        given, unknown = layouts.from_layout(names, in_file)
    given = {k: v for k, v in given.items() if k in own or not k.startswith(tuple(may_skip))}
    # Checkpoints from before PyTorch 0.4.1 have no num_batches_tracked; their models start counting from 0.
    optional = {k for k in own if k.endswith("num_batches_tracked")}
    problems = {
        "missing": [layouts.key_in(names, k) for k in own if k not in given and k not in optional],
        "unexpected": [*(layouts.key_in(names, k) for k in given if k not in own), *unknown],
        "of another shape": [
            f"{layouts.key_in(names, k)} (file {list(v.shape)}, model {list(own[k].shape)})"
            for k, v in given.items()
            if k in own and v.shape != own[k].shape
        ],
    }
    if any(problems.values()):
        lines = [f"{path} does not fit {type(model).__name__}:"]
        for what, keys in problems.items():
            if keys:
                rest = f" and {len(keys) - 10} more" if len(keys) > 10 else ""
                lines.append(f"  {len(keys)} {what}: {', '.join(keys[:10])}{rest}")
        if not problems["missing"] and not problems["unexpected"]:
            lines.append("  (for another number of classes: create the model with the file's, then reset_classifier)")
        elif isinstance(model, Network):
            found = layouts.layout_of(_network(model, whole), in_file)
            if found is not None and found != (layout or ""):
                lines.append(
                    f"  (the file's keys are of {f'layout={found!r}' if found else 'our own layout, layout=None'})"
                )
        raise ValueError("\n".join(lines))
    model.load_state_dict({**{k: own[k] for k in optional}, **given})


def _network(model: nn.Module, whole: Callable[[], nn.Module] | None) -> Network:
    network = model if whole is None else whole()
    if not isinstance(network, Network):
        raise ValueError(f"{type(network).__name__} has no layout beside its own")
    return network
