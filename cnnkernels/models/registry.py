"""Which networks there are, and how one is made and given its weights."""

from __future__ import annotations

import fnmatch
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_MODELS: dict[str, Callable[..., nn.Module]] = {}


def register(function: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Registers a function that makes a network, under its own name."""
    _MODELS[function.__name__] = function
    return function


def list_models(pattern: str = "*") -> list[str]:
    """Names that ``create_model`` takes, sorted; ``pattern`` as in a shell: "mobilenet*"."""
    return sorted(fnmatch.filter(_MODELS, pattern))


def create_model(
    name: str,
    pretrained: bool | str | os.PathLike[str] = False,
    num_classes: int = 1000,
    in_chans: int = 3,
    features_only: bool = False,
    **kw: Any,
) -> Any:
    """The network called ``name``, in training mode, with random weights or those of a file.

    pretrained: False, or the path of a checkpoint: ``.safetensors``, else a file that ``torch.load`` reads with
        ``weights_only=True`` (nothing else of it is ever unpickled).  Keys and shapes must match exactly; with
        ``features_only`` the file may also hold the layers that are left out.  Nothing is downloaded.
    num_classes: width of the classifier.  in_chans: channels of the images.
    features_only: a network that returns a list of feature maps, described by ``model.channels`` and ``.strides``.
    kw: for the network, such as ``width_mult``.

    Raises ValueError for an unknown name and for a file that does not fit, with the keys that are missing, unexpected
    or of another shape; FileNotFoundError.
    """
    if name not in _MODELS:
        near = ", ".join(list_models())
        raise ValueError(f"create_model: no network called {name!r}; there are: {near}")
    if pretrained is True:
        raise ValueError("create_model: pretrained must be False or the path of a checkpoint; nothing is downloaded")
    model = _MODELS[name](num_classes=num_classes, in_chans=in_chans, features_only=features_only, **kw)
    if pretrained is not False:
        load_weights(model, pretrained, may_skip=model.left_out if features_only else ())  # type: ignore[arg-type]
    return model


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by key, on the CPU.  ``torch.save`` may have put them under "state_dict"."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file {path}")
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError:
            raise ImportError(f"{path.name} needs the package safetensors: pip install safetensors") from None
        return dict(load_file(path))
    content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} does not hold a state_dict (tensors by key)")
    return {str(k): v for k, v in content.items()}


def load_weights(model: nn.Module, path: str | os.PathLike[str], may_skip: Sequence[str] = ()) -> None:
    """Copies a checkpoint into the model if it fits exactly; else raises ValueError and has changed nothing.

    may_skip: beginnings of keys that the file may have and the model need not.
    """
    given, own = read_weights(path), model.state_dict()
    given = {k: v for k, v in given.items() if k in own or not k.startswith(tuple(may_skip))}
    # Checkpoints from before PyTorch 0.4.1 have no num_batches_tracked; their models start counting from 0.
    optional = {k for k in own if k.endswith("num_batches_tracked")}
    problems = {
        "missing": [k for k in own if k not in given and k not in optional],
        "unexpected": [k for k in given if k not in own],
        "of another shape": [
            f"{k} (file {list(v.shape)}, model {list(own[k].shape)})"
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
        raise ValueError("\n".join(lines))
    model.load_state_dict({**{k: own[k] for k in optional}, **given})
