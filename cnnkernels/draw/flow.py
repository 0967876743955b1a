"""The inside of one block as a graph: which layer's result goes where.

Found by running the block once on the meta device under a dispatch mode that sees every operation: those inside a layer
are that layer, those between layers (sums, products, concatenations, splits, shuffles) are nodes of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cnnkernels import _backend
from cnnkernels.draw.layers import Label, is_layer, label, normalisation

# aten operations between layers that a picture shows; all others pass their first tensor on.
_JOINTS = {
    "add": Label("+", "sum"),
    "mul": Label("\N{MULTIPLICATION SIGN}", "sum"),
    "cat": Label("concat", "join"),
    "split": Label("split", "join"),
    "split_with_sizes": Label("split", "join"),
    "channel_shuffle": Label("shuffle", "shuffle"),
    "concat_shuffle_split": Label("concat, shuffle, split", "shuffle"),
    "mean": Label("global average pool", "pool"),
    "adaptive_avg_pool2d": Label("global average pool", "pool"),
    "_adaptive_avg_pool2d": Label("global average pool", "pool"),
    "avg_pool2d": Label("average pool", "pool"),
    "max_pool2d_with_indices": Label("max pool", "pool"),
    "upsample_nearest2d": Label("upsample", "other"),
}
_AFTER = {
    "relu": "ReLU",
    "relu_": "ReLU",
    "sigmoid": "sigmoid",
    "silu_": "SiLU",
    "silu": "SiLU",
    "hardsigmoid": "h-sigmoid",
    "hardswish": "h-swish",
}


@dataclass
class Node:
    label: Label
    after: list[str] = field(default_factory=list)
    """BatchNorm and activation that follow."""
    sources: list[int] = field(default_factory=list)
    """Nodes whose results it takes, in order."""
    shape: tuple[int, ...] = ()
    """[C, H, W] of its result."""


@dataclass
class Flow:
    nodes: list[Node]
    """The first one is the input, the last one the output."""


class _Recorder(TorchDispatchMode):
    def __init__(self, block: nn.Module, inputs: tuple[Any, ...]) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.producer: dict[int, int] = {}
        self.kept: list[Tensor] = []  # so that no id comes twice
        self.layer: int | None = None  # node of the layer that is being computed
        self.depth = 0
        self.handles: list[Any] = []
        for module in block.modules():
            if module is not block and is_layer(module):
                self.handles.append(module.register_forward_pre_hook(self._enter))
                self.handles.append(module.register_forward_hook(self._leave))
        first = [t for x in inputs for t in (x if isinstance(x, (tuple, list)) else [x]) if isinstance(t, Tensor)]
        self._add(Node(Label("input", "end")), first)

    def _add(self, node: Node, results: list[Tensor]) -> int:
        self.nodes.append(node)
        self._made(len(self.nodes) - 1, results)
        return len(self.nodes) - 1

    def _made(self, node: int, results: list[Tensor]) -> None:
        for t in results:
            self.producer[id(t)] = node
            self.kept.append(t)
        shapes = [t for t in results if t.dim() == 4]
        if shapes:
            self.nodes[node].shape = (sum(t.shape[1] for t in shapes), *shapes[0].shape[2:])

    def _sources(self, tensors: list[Tensor]) -> list[int]:
        return [self.producer[id(t)] for t in tensors if id(t) in self.producer]

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self.depth += 1
        if self.depth == 1:
            text = label(module)
            sources = self._sources(_tensors(inputs))
            if text is not None:
                self.layer = self._add(Node(text, sources=sources), [])
            else:
                note = normalisation(module)
                self.layer = sources[0]
                if note is not None:
                    self.layer = self._follow(note, sources[0])

    def _leave(self, module: nn.Module, inputs: Any, result: Any) -> None:
        self.depth -= 1
        if self.depth == 0:
            assert self.layer is not None
            self._made(self.layer, _tensors(result))
            self.layer = None

    def _follow(self, note: str, source: int) -> int:
        """Writes the note under its layer where nothing else has seen the result before; else makes a node of it."""
        if self.nodes[source].label.kind not in ("end", "sum") and not any(source in n.sources for n in self.nodes):
            self.nodes[source].after.append(note)
            return source
        return self._add(Node(Label(note, "other"), sources=[source]), [])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.depth == 0:
            name, tensors, results = func.overloadpacket.__name__, _tensors(args), _tensors(result)
            sources = self._sources(tensors)
            known = name if name in _JOINTS else name.removesuffix("_")
            if name in _AFTER and sources:
                self._made(self._follow(_AFTER[name], sources[0]), results)
            elif known in _JOINTS and sources:
                self._made(self._add(Node(_JOINTS[known], sources=sources), []), results)
            elif sources:
                self._made(sources[0], results)
        return result


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in _tensors(v)]
    return []


def flow(block: nn.Module, *inputs: Any) -> Flow:
    """The graph of ``block(*inputs)``; block and inputs on the meta device."""
    recorder = _Recorder(block, inputs)
    try:
        with torch.no_grad(), _backend.use_backend("reference"), recorder:
            result = block.eval()(*inputs)
    finally:
        for handle in recorder.handles:
            handle.remove()
    nodes = recorder.nodes
    sources = list(dict.fromkeys(recorder._sources(_tensors(result))))
    nodes.append(Node(Label("output", "end"), sources=sources, shape=nodes[sources[0]].shape))
    return Flow(nodes)
