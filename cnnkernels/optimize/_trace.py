"""The graph of a network, as torch.fx sees it; what fx cannot see through is called as it is."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnnkernels.optimize import _leaves
from cnnkernels.optimize._undisturbed import same_random_numbers

MOST_ATTEMPTS = 64
OPTIMIZED = "_cnnkernels_optimized"
"""Attribute of modules that run a program of their own (``model``)."""
_IN_PLACE_OPERATORS = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem)


class CannotTrace(Exception):
    """Why a module's ``forward`` is no graph."""


@dataclass(frozen=True)
class Traced:
    """What a module's ``forward`` does."""

    graph: fx.Graph
    """Of calls of leaf modules and functions; one placeholder for each argument."""
    opaque: dict[str, str]
    """Names of modules that could not be seen through, and why."""
    inside: list[str]
    """Names of the modules whose ``forward`` was followed, the module's own, "", among them."""


class _Failed(Exception):
    def __init__(self, path: str, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}".split("\n")[0])
        self.path = path


class _Tracer(fx.Tracer):
    def __init__(self, opaque: Mapping[str, str]) -> None:
        super().__init__(param_shapes_constant=True)
        self.opaque = opaque
        self.inside = [""]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            module_qualified_name in self.opaque
            or _leaves.is_leaf(m)
            or OPTIMIZED in vars(m)
            or super().is_leaf_module(m, module_qualified_name)
        )

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        if not self.is_leaf_module(m, path):
            self.inside.append(path)
        try:
            return super().call_module(m, forward, args, kwargs)
        except _Failed:
            raise
        except Exception as error:  # whatever a stranger's forward raises when it is given proxies
            raise _Failed(path, error) from None


def trace(model: nn.Module, arity: int) -> Traced:
    """The graph of ``model(*args)`` with ``arity`` arguments, the others at their defaults.

    The innermost module whose forward fails is taken as opaque, and it is tried again.  CannotTrace where that is the
    model itself, where two traces differ (a forward that draws random numbers in Python), where it makes tensors of its
    own, which would not follow the model to another device, and where it writes to its arguments, which the caller would
    not see when they are computed in another memory format.  A copy is traced, since a forward may count its calls.
    """
    opaque: dict[str, str] = {}
    for _ in range(MOST_ATTEMPTS):
        try:
            (graph, inside), (again, _) = (_trace_copy(model, arity, opaque, seed) for seed in (0, 1))
        except _Failed as failed:
            if failed.path in ("", *opaque):
                raise CannotTrace(str(failed)) from None
            opaque[failed.path] = str(failed)
            continue
        if str(graph) != str(again):
            raise CannotTrace("its forward is not the same twice")
        if any(_writes_to_argument(model, node) for node in graph.nodes):
            raise CannotTrace("its forward writes to an argument")
        return Traced(graph, opaque, list(dict.fromkeys(inside)))
    raise CannotTrace(f"more than {MOST_ATTEMPTS} of its modules cannot be traced")


def _trace_copy(model: nn.Module, arity: int, opaque: Mapping[str, str], seed: int) -> tuple[fx.Graph, list[str]]:
    probe = copy.deepcopy(model, {id(p): p for p in model.parameters()})  # forward may write to buffers, not to those
    before = set(vars(probe))
    tracer = _Tracer(opaque)
    try:
        with same_random_numbers(seed), torch.no_grad():
            graph = tracer.trace(probe, concrete_args=_defaults(probe, arity))
    except _Failed:
        raise
    except Exception as error:
        raise _Failed("", error) from None
    if any(isinstance(v, Tensor) and k not in before for k, v in vars(probe).items()):
        raise CannotTrace("its forward makes tensors of its own")
    _drop_placeholders(graph, arity)
    _drop_unread_sizes(graph)
    return graph, tracer.inside


def _writes_to_argument(model: nn.Module, node: fx.Node) -> bool:
    """Whether the node is an operation in place on an argument of forward, as it came."""
    if not node.op.startswith("call_") or not node.args or getattr(node.args[0], "op", "") != "placeholder":
        return False
    if node.op == "call_module":
        return getattr(model.get_submodule(str(node.target)), "inplace", False) is True
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    in_place = node.target in _IN_PLACE_OPERATORS or (str(name).endswith("_") and not str(name).endswith("__"))
    return in_place or node.kwargs.get("inplace") is True


def _defaults(model: nn.Module, arity: int) -> dict[str, Any] | None:
    """Arguments of forward beyond the first ``arity``, which keep their defaults."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = [p for p in inspect.signature(model.forward).parameters.values() if p.kind in named]
    return {p.name: p.default for p in parameters[arity:] if p.default is not p.empty} or None


def _drop_placeholders(graph: fx.Graph, arity: int) -> None:
    """fx leaves one for every default, which only its own assertions read."""
    for node in [n for n in graph.nodes if n.op == "placeholder"][arity:]:
        _erase_with_users(graph, node)


def _erase_with_users(graph: fx.Graph, node: fx.Node) -> None:
    for user in list(node.users):
        _erase_with_users(graph, user)
    graph.erase_node(node)


def _drop_unread_sizes(graph: fx.Graph) -> None:
    """``b, c, _, _ = x.size()`` leaves nodes that make x look as if something else read it."""
    for node in reversed(list(graph.nodes)):
        function = node.op == "call_function" and node.target in (operator.getitem, getattr)
        method = node.op == "call_method" and node.target in ("size", "dim")
        if (function or method) and not node.users:
            graph.erase_node(node)
