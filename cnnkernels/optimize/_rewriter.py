"""A traced graph in which regions of nodes become calls of one module each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from cnnkernels.optimize import _leaves

PREFIX = "fused."


@dataclass(frozen=True)
class Region:
    """What a fused node took the place of.  ``key`` is the same in every trace of this network."""

    key: str
    kind: str
    name: str
    """Of the module that a reader would look for."""
    inputs: tuple[fx.Node, ...]
    """Nodes of the plain graph."""
    output: fx.Node
    parts: tuple[Region, ...] = ()
    """What a run consists of, in order."""


class Rewriter:
    """plain: the graph as traced, whose nodes carry "shape" in their meta; ``graph`` is the copy that changes.

    skip: keys of regions that are to stay as they are.  training: whether gradients and batch statistics matter.
    """

    def __init__(self, model: nn.Module, plain: fx.Graph, skip: frozenset[str], training: bool) -> None:
        self.model, self.skip, self.training = model, skip, training
        self.graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        output = self.graph.graph_copy(plain, copies)
        self.graph.output(output)
        self._there = set(self.graph.nodes)
        for node, twin in copies.items():
            twin.meta["plain"] = node
            twin.meta["shape"] = node.meta.get("shape")
        self.modules: dict[str, nn.Module] = {}
        self.bypassed: list[str] = []
        """Names of modules that change nothing, and are not called."""
        self.regions: dict[fx.Node, Region] = {}

    def nodes(self) -> list[fx.Node]:
        return list(self.graph.nodes)

    def __contains__(self, node: fx.Node) -> bool:
        return node in self._there

    def module(self, node: Any) -> Any:
        """What a node calls; None for anything but a module."""
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        own = self.modules.get(str(node.target))
        return own if own is not None else self.model.get_submodule(str(node.target))

    def one_input(self, node: fx.Node) -> fx.Node | None:
        """The node's only argument, if it is a call of a module with one."""
        single = len(node.args) == 1 and not node.kwargs and isinstance(node.args[0], fx.Node)
        return node.args[0] if single else None  # type: ignore[return-value]

    def only_user(self, node: fx.Node) -> fx.Node | None:
        return next(iter(node.users)) if len(node.users) == 1 else None

    def activation_after(self, node: fx.Node) -> tuple[fx.Node, nn.Module | None]:
        """The activation that alone reads the node, and its node; (node, None) where there is none."""
        user = self.only_user(node)
        if user is None or not user.args or user.args[0] is not node:
            return node, None
        act = self.activation_at(user)
        return (node, None) if act is None else (user, act)

    def activation_at(self, node: fx.Node) -> nn.Module | None:
        """What the node computes of its one input, if it is an activation."""
        module = self.module(node)
        if module is None:
            return _leaves.activation_of_call(node)
        return _leaves.activation(module) if self.one_input(node) is not None else None

    def replace(
        self,
        kind: str,
        module: nn.Module,
        inputs: tuple[fx.Node, ...],
        output: fx.Node,
        name: str | None = None,
        parts: tuple[Region, ...] = (),
    ) -> fx.Node | None:
        """The region between these nodes becomes one call; None if it is to be skipped."""
        plain = output.meta["plain"]
        key = f"{kind}:{plain.name}"
        if key in self.skip:
            return None
        target = f"{PREFIX}{plain.name}_{kind}"
        with self.graph.inserting_before(output):
            new = self.graph.create_node("call_module", target, inputs, name=f"{plain.name}_{kind}")
        self._there.add(new)
        new.meta.update(plain=plain, shape=output.meta.get("shape"))
        self.modules[target] = module
        self.regions[new] = Region(key, kind, name or plain.name, tuple(i.meta["plain"] for i in inputs), plain, parts)
        output.replace_all_uses_with(new)
        self._erase(output, set(inputs))
        return new

    def bypass(self, node: fx.Node, by: fx.Node) -> None:
        """Whoever read ``node`` reads ``by``."""
        if node.op == "call_module":
            self.bypassed.append(str(node.target))
        node.replace_all_uses_with(by)
        self._erase(node, {by})

    def _erase(self, node: fx.Node, keep: set[fx.Node]) -> None:
        """The node and what only it needed."""
        if node not in self._there or node.users or node in keep or node.op in ("placeholder", "output"):
            return
        inputs = node.all_input_nodes
        self._there.discard(node)
        self.graph.erase_node(node)
        self.regions.pop(node, None)
        for i in inputs:
            self._erase(i, keep)
