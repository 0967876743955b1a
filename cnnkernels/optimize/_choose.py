"""Which regions of a network stay: each is compared with the modules that it stands for, and timed beside them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnnkernels._timing import interleaved_times
from cnnkernels.optimize._compare import Differs, compare_calls, distance, leaves, tolerance
from cnnkernels.optimize._graphs import replayed
from cnnkernels.optimize._measure import in_channels_last, step
from cnnkernels.optimize._rewriter import Region
from cnnkernels.optimize._trace import CannotTrace, Traced, trace
from cnnkernels.optimize._undisturbed import copied, same_random_numbers
from cnnkernels.optimize.program import Program, Recipe, build, plain_module, subgraph
from cnnkernels.optimize.report import Entry

SLOWER = 1.03
"""Times as long as its modules a region may take before it is undone; less is within the noise."""
MOST_ROUNDS = 6
"""Of undoing: a larger region falls back to the smaller ones in it, which are looked at next."""


@dataclass(frozen=True)
class Choice:
    recipe: Recipe
    entries: list[Entry]
    traced: Traced


@dataclass(frozen=True)
class Options:
    verify: bool
    tune: bool
    training: bool
    channels_last: bool
    cuda_graph: bool = False


class _Recorder(fx.Interpreter):
    """Runs a graph, and keeps the values of the nodes that are asked for."""

    def __init__(self, module: fx.GraphModule, wanted: set[str]) -> None:
        super().__init__(module)
        self.wanted, self.values, self.shapes = wanted, dict[str, Any](), dict[str, tuple[int, ...]]()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        plain = n.meta.get("plain")
        if plain is not None and isinstance(value, Tensor):
            self.shapes[plain.name] = tuple(value.shape)
            if plain.name in self.wanted:
                # A later operation in place would change it.
                self.values[plain.name] = value.detach().clone(memory_format=torch.preserve_format)
        return value


def choose(model: nn.Module, args: Sequence[Any], options: Options) -> Choice:
    """The recipe of the model's program in its present mode.  CannotTrace where there is none.

    Statistics of BatchNorms are left alone: everything runs on a copy.
    """
    traced = trace(model, len(args))
    probe = copy.deepcopy(model) if options.training else model
    _check_graph(probe, traced, args)
    recipe = Recipe(
        len(args),
        _record(probe, traced, args, set()).shapes,
        channels_last=options.channels_last,
        keeps_history=options.training,
    )
    judge = _Judge(probe, traced, args, options)
    for _ in range(MOST_ROUNDS):
        program = build(probe, recipe, traced)
        judge.look_at(program)
        bad = frozenset(judge.bad(program))
        if not bad:
            break
        recipe = replace(recipe, skip=recipe.skip | bad)
    return Choice(recipe, judge.entries(program, bad), traced)


def _check_graph(model: nn.Module, traced: Traced, args: Sequence[Any]) -> None:
    """CannotTrace where the graph is not what forward does: one that asks for the type of its argument sees fx's instead."""
    results = []
    for contender in (model, plain_module(model, traced)):
        with torch.no_grad(), same_random_numbers():
            try:
                results.append(contender(*copied(args)))
            except Exception as error:
                raise CannotTrace(f"its graph raises {type(error).__name__}: {error}".split("\n")[0]) from None
    try:
        difference = distance(results[1], results[0])
    except Differs as differs:
        raise CannotTrace(f"its graph {differs}") from None
    if not difference <= max((tolerance(t.dtype) for t in leaves(results[0]) if isinstance(t, Tensor)), default=0.0):
        raise CannotTrace(f"its graph computes something else, with a difference of {difference:.0e}")


def _record(model: nn.Module, traced: Traced, args: Sequence[Any], wanted: set[str]) -> _Recorder:
    recorder = _Recorder(plain_module(model, traced), wanted)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        recorder.run(*args)
    return recorder


class _Judge:
    """What is known of every region that was ever tried."""

    def __init__(self, model: nn.Module, traced: Traced, args: Sequence[Any], options: Options) -> None:
        self.model, self.traced, self.args, self.options = model, traced, args, options
        self.known: dict[tuple[Any, ...], Entry] = {}

    def look_at(self, program: Program) -> None:
        if not (self.options.verify or self.options.tune):
            return
        new = [(r, m) for r, m in program.regions if _identity(r) not in self.known]
        wanted = {n.name for r, _ in new for n in r.inputs}
        args = [in_channels_last(a) if self.options.channels_last else a for a in self.args]
        values = _record(self.model, self.traced, args, wanted).values if new else {}
        for region, module in new:
            self.known[_identity(region)] = self._judged(region, module, values)

    def _judged(self, region: Region, module: nn.Module, values: dict[str, Any]) -> Entry:
        entry = _entry(region)
        plain = subgraph(self.model, region.inputs, region.output)
        missing = [n.name for n in region.inputs if n.name not in values]
        if plain is None or missing:
            return replace(entry, status="undone", why="it also needs a value that the region does not see")
        inputs = [values[n.name] for n in region.inputs]
        try:
            with torch.random.fork_rng(devices=[]):
                error = compare_calls(plain, module, inputs, self.options.training)
        except Differs as differs:
            return replace(entry, status="undone", why=str(differs), error=differs.error)
        entry = replace(entry, error=error)
        if not error <= tolerance(inputs[0].dtype):
            return replace(entry, status="undone", why="its result differs")
        if not self.options.tune:
            return entry
        before, after = self._times(plain, module, inputs)
        entry = replace(entry, before_ms=1e3 * before, after_ms=1e3 * after)
        return replace(entry, status="undone", why="slower") if after > SLOWER * before else entry

    def _times(self, plain: nn.Module, module: nn.Module, inputs: Sequence[Tensor]) -> tuple[float, float]:
        if self.options.cuda_graph:
            try:
                calls = [replayed(m, inputs) for m in (plain, module)]
            except RuntimeError:  # one of them waits for the GPU
                calls = [step(m, inputs, False) for m in (plain, module)]
        else:
            calls = [step(m, inputs, self.options.training) for m in (plain, module)]
        # The best of a few: on a busy machine a median of so few says more about the others.
        before, after = map(min, interleaved_times(calls, rounds=9, seconds=0.4))
        return before, after

    def bad(self, program: Program) -> list[str]:
        return [r.key for r, m in program.regions if (e := self.known.get(_identity(r))) and e.status == "undone"]

    def entries(self, program: Program, bad: frozenset[str]) -> list[Entry]:
        """Of the program's regions, in its order, then of what was undone on the way."""
        there = [_identity(r) for r, m in program.regions if r.key not in bad]
        unseen = {_identity(r): _entry(r) for r, m in program.regions}
        undone = [e for key, e in self.known.items() if e.status == "undone"]
        return [self.known.get(key, unseen[key]) for key in there] + undone


def _entry(region: Region) -> Entry:
    return Entry(region.name, region.kind, "swapped", parts=dict(Counter(part.kind for part in region.parts)))


def _identity(region: Region) -> tuple[Any, ...]:
    return region.key, tuple(n.name for n in region.inputs), tuple(part.key for part in region.parts)
