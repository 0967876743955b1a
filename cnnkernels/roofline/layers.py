"""What a network consists of: its steps one after the other, each with what it has to compute and to move."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cnnkernels import _backend
from cnnkernels.models import Network

Call = Callable[[Any], Any]


@dataclass(frozen=True)
class Layer:
    """A block, or what stands alone: called with the result of the layer before."""

    name: str
    """Of the module in its network; of several without a module in common the first and the last."""
    call: Call
    shape: tuple[int, ...]
    """Of the result; of several tensors the first."""
    flops: int
    """Of convolutions and matrix products, two per multiply-add; everything else counts as none."""
    bytes: int
    """What it has to move at least: its input, its parameters and its result, once."""


def layers_of(model: Network, x: Tensor) -> list[Layer]:
    """The layers of a network in evaluation for images x, counted by running its plain children once."""
    names = {id(m): name for name, m in model.named_modules()}
    found = []
    with torch.no_grad(), _backend.use_backend("reference"), _Called(model) as called:
        for step in _steps(model):
            with FlopCounterMode(display=False) as counter:
                y = step(x)
            modules = called.take()
            parameters = step.parameters() if isinstance(step, nn.Module) else _parameters(modules)
            moved = [*_tensors(x), *_tensors(y), *parameters]
            name = names[id(step)] if isinstance(step, nn.Module) else _name([names[id(m)] for m in modules])
            found.append(
                Layer(
                    name or "network",
                    step,
                    tuple(_tensors(y)[0].shape),
                    counter.get_total_flops(),
                    sum(t.numel() * t.element_size() for t in moved),
                )
            )
            x = y
    return found


def _steps(model: Network) -> list[Call]:
    """The trunk's steps, without the Sequentials around them, and the head."""
    trunk = [leaf for step in model.steps() for leaf in _leaves(step)]
    return [*(trunk or [model.forward_features]), model.forward_head]


def _leaves(step: Any) -> Iterator[Call]:
    if type(step) is nn.Sequential:
        for child in step:
            yield from _leaves(child)
    else:
        yield step


class _Called:
    """The modules of a network that were called since the last ``take()``, innermost first."""

    def __init__(self, model: nn.Module) -> None:
        self._found: dict[nn.Module, None] = {}
        self._hooks = [m.register_forward_hook(self._note) for m in model.modules()]

    def _note(self, module: nn.Module, inputs: Any, result: Any) -> None:
        self._found[module] = None

    def take(self) -> list[nn.Module]:
        found, self._found = list(self._found), {}
        return found

    def __enter__(self) -> _Called:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def _parameters(modules: Sequence[nn.Module]) -> Iterable[Tensor]:
    """Each once."""
    return {id(p): p for m in modules for p in m.parameters(recurse=False)}.values()


def _tensors(value: Any) -> list[Tensor]:
    return [t for t in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(t, Tensor)]


def _name(names: Sequence[str]) -> str:
    """``features.0`` of features.0.0 and features.0.1; ``conv1 .. relu`` of what has no name in common."""
    parts = [name.split(".") for name in names if name]
    common = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        common.append(column[0])
    return ".".join(common) if common else " .. ".join(dict.fromkeys((names[0], names[-1])))
