"""A network as one program, or, where torch.fx does not see through it, its parts as one each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from cnnkernels.optimize._adjacent import Watched, join_adjacent, watch
from cnnkernels.optimize._choose import Options, choose
from cnnkernels.optimize._leaves import is_leaf
from cnnkernels.optimize._trace import CannotTrace
from cnnkernels.optimize.model import State, attach, in_mode
from cnnkernels.optimize.report import Entry, Report


def prepare(model: nn.Module, args: Sequence[Any], options: Options, report: Report) -> State:
    """What the whole model becomes; parts of it, where it has to be parts, are attached at once."""
    state, opaque = _of_one(model, "", args, options, report)
    if opaque:
        seen = watch(model, args, options.training)
        for path, why in opaque.items():
            _take_apart(model.get_submodule(path), path, why, seen, options, report)
        state.in_parts = "" in opaque and not options.training and bool(report.swapped)
    return state


def _of_one(
    model: nn.Module, path: str, args: Sequence[Any], options: Options, report: Report
) -> tuple[State, dict[str, str]]:
    """The state of a model or of a module in it, and the modules that could not be seen through, and why."""
    try:
        choice = choose(model, args, options)
    except CannotTrace as error:
        return State({}), {path: str(error)}
    prefix = f"{path}." if path else ""
    report.entries += [replace(e, name=prefix + e.name) for e in choice.entries]
    recipes = {options.training: choice.recipe}
    if options.training:
        with in_mode(model, False):
            try:
                recipes[False] = choose(model, args, replace(options, training=False)).recipe
            except CannotTrace:
                report.notes.append(
                    f"{path or 'the network'} runs as it was in evaluation: that forward cannot be traced"
                )
    return State(recipes), {prefix + name: why for name, why in choice.traced.opaque.items()}


def _take_apart(module: nn.Module, path: str, why: str, seen: Watched, options: Options, report: Report) -> None:
    """A module that nobody can see through: its children, and neighbours among them."""
    report.entries.append(Entry(path or report.model, "module", "skipped", f"cannot be traced: {why}"))
    for child, name in _children(module, path):
        _attach_parts(child, name, seen, options, report)
    found = list(join_adjacent(module, path, seen, options))
    report.entries += found
    if path and any(e.status == "swapped" for e in found):
        attach(module, State({}, in_parts=True))


def _attach_parts(module: nn.Module, path: str, seen: Watched, options: Options, report: Report) -> None:
    if type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential):
        return
    if is_leaf(module) or path not in seen.arguments:
        return
    state, opaque = _of_one(module, path, seen.arguments[path], options, report)
    for name, why in opaque.items():
        _take_apart(module.get_submodule(name.removeprefix(path).lstrip(".")), name, why, seen, options, report)
    if state.recipes:
        attach(module, state)


def _children(module: nn.Module, path: str) -> Iterator[tuple[nn.Module, str]]:
    for name, child in module.named_children():
        yield child, f"{path}.{name}" if path else name
