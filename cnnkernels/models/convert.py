"""State dicts between our keys and those of other packages, by the name of the network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cnnkernels.models import layout as layouts
from cnnkernels.models.registry import model_entry


def _names(name: str, layout: str) -> layouts.Names:
    entry = model_entry(name)
    with torch.device("meta"):
        model = entry.network(**entry.config)
    return layouts.names_of(model, layout)


def convert(name: str, state: Mapping[str, Tensor], layout: str = "timm") -> dict[str, Tensor]:
    """A state dict of another package as ``create_model(name)`` loads it; the tensors share memory with the given ones.

    ``create_model(name, pretrained=PATH, layout=...)`` does this for a file, strictly.  Only names and shapes change:
    settings that no tensor holds (BatchNorm's eps, padding) are for the caller to match.

    Raises ValueError for an unknown name or layout, and for keys that the layout does not have.
    """
    converted, unknown = layouts.from_layout(_names(name, layout), state)
    if unknown:
        raise ValueError(
            f"convert: {len(unknown)} keys are not of {name}'s layout {layout!r}: {', '.join(unknown[:10])}"
        )
    return converted


def to_layout(name: str, state: Mapping[str, Tensor], layout: str = "timm") -> dict[str, Tensor]:
    """The way back: our state dict with another package's keys and shapes."""
    return layouts.to_layout(_names(name, layout), state)
