"""Units in a forward that torch.fx does not see through, found by watching which module is called on what."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels._timing import interleaved_times
from cnnkernels.nn import _unit
from cnnkernels.nn.activation import activation_name
from cnnkernels.optimize._choose import SLOWER, Options, choose
from cnnkernels.optimize._measure import in_channels_last, step
from cnnkernels.optimize._pending import in_a_row, join, part
from cnnkernels.optimize._trace import CannotTrace
from cnnkernels.optimize.report import Entry


@dataclass(frozen=True)
class _Call:
    path: str
    x: Tensor
    before: int  # version of x
    y: Tensor
    after: int


@dataclass
class Watched:
    """What happened in one call of a network."""

    arguments: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Of modules by name: of their first call, where all were positional."""
    calls: list[_Call] = field(default_factory=list)
    """Of convolutions, BatchNorms and activations, in order."""


def watch(model: nn.Module, args: Sequence[Any], training: bool) -> Watched:
    """Calls a copy of the model, or the model itself in evaluation, with hooks."""
    probe = copy.deepcopy(model) if training else model
    seen, hooks = Watched(), []
    begun: list[int] = []  # versions of the arguments of calls that have not returned

    for path, module in probe.named_modules():
        is_candidate = _is_candidate(module)

        def note(_: nn.Module, arguments: Any, keywords: Any, path: str = path, candidate: bool = is_candidate) -> None:
            if not keywords:
                seen.arguments.setdefault(path, arguments)
            if candidate:
                begun.append(_version(arguments))

        def returned(_: nn.Module, arguments: Any, y: Any, path: str = path) -> None:
            before = begun.pop()
            if before >= 0 and type(y) is Tensor and not y.is_inference():
                seen.calls.append(_Call(path, arguments[0], before, y, y._version))

        hooks.append(module.register_forward_pre_hook(note, with_kwargs=True))
        if is_candidate:
            hooks.append(module.register_forward_hook(returned))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            probe(*args)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _version(arguments: tuple[Any, ...]) -> int:
    one = len(arguments) == 1 and type(arguments[0]) is Tensor and not arguments[0].is_inference()
    return arguments[0]._version if one else -1


def _is_candidate(module: nn.Module) -> bool:
    known = type(module) in (nn.Conv2d, nn.BatchNorm2d) or activation_name(module) is not None
    return known and _unit.untouched(module, type(module))


def join_adjacent(module: nn.Module, path: str, seen: Watched, options: Options) -> Iterator[Entry]:
    """Makes units of the module's direct children, in place.  Only in evaluation: elsewhere nothing is found."""
    if options.training:
        return
    prefix = f"{path}." if path else ""
    for row in _rows(module, prefix, seen.calls):
        modules = [module.get_submodule(call.path.removeprefix(prefix)) for call in row]
        try:
            choice = choose(in_a_row(modules), (row[0].x,), options)
        except CannotTrace:
            continue
        entries = [replace(entry, name=row[0].path) for entry in choice.entries]
        if any(e.status == "swapped" for e in entries):
            join(modules, choice.recipe)
            if options.tune:
                entries = _timed(entries, modules, row[0].x, options)
        yield from entries


def _timed(entries: list[Entry], modules: Sequence[nn.Module], x: Tensor, options: Options) -> list[Entry]:
    """With the times of the joined modules as they are called, waiting included; parts them if that is slower."""
    x = in_channels_last(x) if options.channels_last else x
    calls = [step(m, (x,), training=False) for m in (in_a_row(modules), nn.Sequential(*modules))]
    before, after = (1e3 * min(times) for times in interleaved_times(calls, rounds=9, seconds=0.4))
    slower = after > SLOWER * before
    if slower:
        for module in modules:
            part(module)  # type: ignore[arg-type]
    status, why = ("undone", "slower") if slower else ("swapped", "")
    return [
        replace(e, status=status, why=why, before_ms=before, after_ms=after) if e.status == "swapped" else e
        for e in entries
    ]


def _rows(module: nn.Module, prefix: str, calls: Sequence[_Call]) -> Iterator[list[_Call]]:
    """Convolution, BatchNorm (or none), activation (or none), each called once, on what the one before has just returned."""
    children = {prefix + name for name, _ in module.named_children()}
    count = Counter(c.path for c in calls)
    own = [c for c in calls if c.path in children]
    for i, first in enumerate(own):
        row = [first]
        for wanted in (_is_norm, _is_activation):
            following = own[i + len(row)] if i + len(row) < len(own) else None
            if (
                following is not None
                and wanted(module.get_submodule(following.path.removeprefix(prefix)))
                and following.x is row[-1].y
                and following.before == row[-1].after
            ):
                row.append(following)
        is_convolution = isinstance(module.get_submodule(first.path.removeprefix(prefix)), nn.Conv2d)
        if is_convolution and len(row) > 1 and all(count[c.path] == 1 for c in row):
            yield row


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d) and not module.training


def _is_activation(module: nn.Module) -> bool:
    return not isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
