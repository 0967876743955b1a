"""What an optimised network runs instead of its ``forward``: its graph, with regions as one call each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from cnnkernels import _ext
from cnnkernels.nn._fold import FoldsBatchNorm
from cnnkernels.optimize import _blocks, _patterns
from cnnkernels.optimize._regions import ChannelsLast
from cnnkernels.optimize._rewriter import Region, Rewriter
from cnnkernels.optimize._trace import Traced, trace

PASSES: tuple[Callable[[Rewriter], None], ...] = (
    _patterns.bypass_identities,
    _patterns.written_out_activations,
    _blocks.squeeze_excitations,
    _patterns.units,
    _patterns.lone_norms,
    _blocks.parallel_branches,
    _blocks.channel_shuffles,
    _blocks.shuffle_units,
    _patterns.sums,
    _blocks.inverted_residuals,
    _blocks.pyramids,
    _blocks.pixel_means,
    _patterns.layers,
    _blocks.runs,
)
"""In this order: a region may consist of regions that an earlier pass found."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Recipe:
    """From what a program is built again, for a copy of the network: nothing in it refers to the network itself."""

    arity: int
    """Positional arguments that forward is called with."""
    shapes: Shapes
    """Of the values of the plain graph's nodes on the example."""
    skip: frozenset[str] = frozenset()
    """Keys of regions that stay as they are."""
    channels_last: bool = True
    """Whether images are brought into that layout at the entry."""
    keeps_history: bool = True
    """Whether gradients may be asked for; else parameters are taken as constants."""


class _Attribute(nn.Module):
    """A parameter or buffer that the network's own forward reads, as it is at the time of the call."""

    def __init__(self, owner: nn.Module, name: str) -> None:
        super().__init__()
        self.owner, self.name = (owner,), name  # in a tuple, so that it is no child

    def forward(self) -> Any:
        return getattr(self.owner[0], self.name)


@dataclass(frozen=True)
class Program:
    """``program(*args)`` is what the network's forward computes, as long as ``holds()``."""

    recipe: Recipe
    call: fx.GraphModule
    regions: list[tuple[Region, nn.Module]]
    plain: fx.Graph
    traced: Traced
    snapshot: Any
    fused: frozenset[fx.Node]
    """Nodes of ``call``'s graph that are regions."""
    keeps: list[FoldsBatchNorm]
    """Everything that keeps folded weights."""

    def written(self) -> list[fx.Node]:
        """Nodes of the plain graph whose values are stored by a call."""
        parts = [part for region, _ in self.regions for part in (region.parts or (region,))]
        calls = [n for n in self.call.graph.nodes if n.op.startswith("call_") and n not in self.fused]
        return [*(part.output for part in parts), *(n.meta["plain"] for n in calls if "plain" in n.meta)]

    def holds(self) -> bool:
        """Whether the modules that were seen through are what they were: classes, children, hooks, mode."""
        return torch.compiler.is_compiling() or self.snapshot is None or self.snapshot.holds()

    def forget(self) -> None:
        """Drops folded weights, after a change that no version counter shows."""
        for module in self.keeps:
            module._folds.clear()


def build(model: nn.Module, recipe: Recipe, traced: Traced | None = None) -> Program:
    """The program of the model in its present mode.  CannotTrace where there is none."""
    traced = trace(model, recipe.arity) if traced is None else traced
    for node in traced.graph.nodes:
        node.meta["shape"] = recipe.shapes.get(node.name)
    rewriter = Rewriter(model, traced.graph, recipe.skip, model.training)
    for step in PASSES:
        step(rewriter)
    if recipe.channels_last:
        _enter_channels_last(rewriter)
    call = _module_of(rewriter)
    regions = [(region, rewriter.modules[str(node.target)]) for node, region in rewriter.regions.items()]
    keeps = [m for m in call.modules() if isinstance(m, FoldsBatchNorm)]
    snapshot = _structure(model, [*traced.inside, *rewriter.bypassed])
    return Program(recipe, call, regions, traced.graph, traced, snapshot, frozenset(rewriter.regions), keeps)


def plain_module(model: nn.Module, traced: Traced) -> fx.GraphModule:
    """The traced graph as it is; its nodes' meta names those of ``traced``."""
    return _module_of(Rewriter(model, traced.graph, frozenset(), model.training))


def subgraph(model: nn.Module, inputs: tuple[fx.Node, ...], output: fx.Node) -> fx.GraphModule | None:
    """The part of a plain graph that leads from these nodes to that one; None if it needs anything else."""
    graph = fx.Graph()
    copies = {node: graph.placeholder(f"x{i}") for i, node in enumerate(inputs)}
    needed: set[fx.Node] = set()
    waiting = [output]
    while waiting:
        node = waiting.pop()
        if node in needed or node in copies:
            continue
        if node.op == "placeholder":
            return None
        needed.add(node)
        waiting += node.all_input_nodes
    for node in output.graph.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, lambda n: copies[n])
            copies[node].meta["plain"] = node
    graph.output(copies[output])
    return _module_of(Rewriter(model, graph, frozenset(), model.training))


def _enter_channels_last(r: Rewriter) -> None:
    for node in r.nodes():
        if node.op != "placeholder" or len(node.meta.get("shape") or ()) != 4 or not node.users:
            continue
        users = list(node.users)
        with r.graph.inserting_after(node):
            new = r.graph.create_node("call_module", f"entry.{node.name}", (node,))
        for user in users:
            user.replace_input_with(node, new)
        r.modules[str(new.target)] = ChannelsLast()


def _module_of(r: Rewriter) -> fx.GraphModule:
    """Called modules under flat names: each level of a dotted one is looked up at every call."""
    called: dict[str, nn.Module] = {}
    for node in r.nodes():
        if node.op == "get_attr":
            path, _, name = str(node.target).rpartition(".")
            node.op, module = "call_module", _Attribute(r.model.get_submodule(path), name)
        elif node.op == "call_module":
            module = r.module(node)
        else:
            continue
        flat = f"m{len(called)}"
        called[flat] = module
        if str(node.target) in r.modules:
            r.modules[flat] = r.modules[str(node.target)]
        node.target = flat
    r.graph.lint()
    return fx.GraphModule(called, r.graph, class_name="Program")


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _structure(model: nn.Module, inside: list[str]) -> Any:
    """What the graph follows from, of the modules that were seen through; None where the extension is not built."""
    if _ext.module is None:
        return None
    seen = _ext.module.Snapshot()
    for path in inside:
        module = model.get_submodule(path)
        if path:
            seen.type(module)
        attributes = vars(module)
        if path:
            seen.item(attributes, "forward")
            for hooks in _HOOKS:  # of the model itself they run around its forward
                seen.item(attributes, hooks)
                seen.items(attributes[hooks])
        seen.item(attributes, "training")
        seen.item(attributes, "_modules")
        seen.items(attributes["_modules"])
    return seen
