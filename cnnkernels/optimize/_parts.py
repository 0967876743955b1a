"""A network as one program, or, where torch.fx does not see through it, its parts as one each."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from cnnkernels.optimize._choose import Options, choose
from cnnkernels.optimize._leaves import is_leaf
from cnnkernels.optimize._trace import CannotTrace
from cnnkernels.optimize.model import State, attach, in_mode
from cnnkernels.optimize.report import Entry, Report

Calls = Mapping[str, tuple[Any, ...]]
"""Of modules by name: the arguments of their first call, where all were positional."""


def prepare(model: nn.Module, args: Sequence[Any], options: Options, report: Report) -> State:
    """What the whole model becomes; parts of it, where it has to be parts, are attached at once."""
    state, opaque = _of_one(model, "", args, options, report)
    if opaque:
        calls = _calls(model, args, options.training)
        for path, why in opaque.items():
            report.entries.append(Entry(path or type(model).__name__, "module", "skipped", f"cannot be traced: {why}"))
            for child, name in _children(model.get_submodule(path), path):
                _attach_parts(child, name, calls, options, report)
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


def _attach_parts(module: nn.Module, path: str, calls: Calls, options: Options, report: Report) -> None:
    if type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential):
        return
    if is_leaf(module) or path not in calls:
        return
    state, opaque = _of_one(module, path, calls[path], options, report)
    for name, why in opaque.items():
        report.entries.append(Entry(name, "module", "skipped", f"cannot be traced: {why}"))
        inner = module.get_submodule(name.removeprefix(path).lstrip("."))
        for child, child_name in _children(inner, name):
            _attach_parts(child, child_name, calls, options, report)
    if state.recipes:
        attach(module, state)


def _children(module: nn.Module, path: str) -> Iterator[tuple[nn.Module, str]]:
    for name, child in module.named_children():
        yield child, f"{path}.{name}" if path else name


def _calls(model: nn.Module, args: Sequence[Any], training: bool) -> Calls:
    probe = copy.deepcopy(model) if training else model
    calls: dict[str, tuple[Any, ...]] = {}
    hooks = []
    for path, module in probe.named_modules():

        def note(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], path: str = path) -> None:
            if not keywords:
                calls.setdefault(path, arguments)

        hooks.append(module.register_forward_pre_hook(note, with_kwargs=True))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            probe(*args)
    finally:
        for hook in hooks:
            hook.remove()
    return calls
