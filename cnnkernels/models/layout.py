"""Names that other packages give to the tensors of a network: a layout is a renaming of layers, registered by class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from cnnkernels.models.network import Network


@dataclass(frozen=True)
class Layer:
    """A layer's name in the other layout."""

    name: str
    trailing: tuple[int, ...] = ()
    """What follows the first dimension of its weight there, where a linear layer is a convolution: (-1, 1, 1)."""


Names = Mapping[str, Layer]
"""By our name of the layer."""

_LAYOUTS: dict[tuple[type[Network], str], Callable[[Network], Names]] = {}


def register_layout(network: type[Network], layout: str, names: Callable[[Network], Names]) -> None:
    """Makes ``layout`` known for a class of networks; names(model) names every layer that has tensors."""
    if (network, layout) in _LAYOUTS:
        raise ValueError(f"register_layout: {network.__name__} has a layout {layout!r} already")
    _LAYOUTS[network, layout] = names


def layouts_of(model: Network) -> list[str]:
    return sorted(layout for network, layout in _LAYOUTS if network is type(model))


def names_of(model: Network, layout: str) -> Names:
    """Raises ValueError for a layout that is not known for this network."""
    if (type(model), layout) not in _LAYOUTS:
        known = ", ".join(layouts_of(model)) or "none"
        raise ValueError(f"{type(model).__name__} has no layout {layout!r} beside its own; there are: {known}")
    return _LAYOUTS[type(model), layout](model)


def key_in(names: Names, key: str) -> str:
    """Our key of a tensor in the other layout; one that belongs to no named layer stays as it is."""
    layer, _, tensor = key.rpartition(".")
    return f"{names[layer].name}.{tensor}" if layer in names else key


def to_layout(names: Names, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state_dict with the keys and shapes of the other layout."""
    converted = {}
    for key, value in state.items():
        layer, _, tensor = key.rpartition(".")
        trailing = names[layer].trailing if layer in names and tensor == "weight" else ()
        converted[key_in(names, key)] = value.reshape(value.shape[0], *trailing) if trailing else value
    return converted


def from_layout(names: Names, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The other layout's state_dict with our keys and shapes; and the keys that belong to none of its layers."""
    ours = {layer.name: name for name, layer in names.items()}
    converted, unknown = {}, []
    for key, value in state.items():
        layer, _, tensor = key.rpartition(".")
        if layer not in ours:
            unknown.append(key)
            continue
        flat = tensor == "weight" and names[ours[layer]].trailing and value.dim() > 2
        converted[f"{ours[layer]}.{tensor}"] = value.flatten(1) if flat else value
    return converted, unknown


def layout_of(model: Network, state: Mapping[str, Tensor]) -> str | None:
    """The layout whose layers all these keys belong to: "" for the model's own, None for none."""
    layers = {key.rpartition(".")[0] for key in state}
    if layers <= {key.rpartition(".")[0] for key in model.state_dict()}:
        return ""
    return next((la for la in layouts_of(model) if layers <= {x.name for x in names_of(model, la).values()}), None)
