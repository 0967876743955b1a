"""Convolution, BatchNorm, activation and sums: which nodes of a graph are one unit."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from cnnkernels.nn import Activation, Linear, MaxPool2d, Mish, _unit
from cnnkernels.nn.activation import activation_name
from cnnkernels.optimize import _leaves
from cnnkernels.optimize._leaves import shape
from cnnkernels.optimize._regions import Unit
from cnnkernels.optimize._rewriter import Rewriter


def bypass_identities(r: Rewriter) -> None:
    """``nn.Identity``, which networks leave in the place of a layer that is switched off; in evaluation dropout of any kind."""
    for node in r.nodes():
        module, x = r.module(node), r.one_input(node)
        dropout = _unit.untouched(module, nn.Dropout, nn.Dropout2d) and not module.training
        if x is not None and (dropout or _unit.untouched(module, nn.Identity)):
            r.bypass(node, x)
        elif _switched_off(node):
            r.bypass(node, node.args[0])  # type: ignore[arg-type]


def _switched_off(node: fx.Node) -> bool:
    """A call of torch's dropout or torchvision's stochastic depth with ``training=False``."""
    name, at = getattr(node.target, "__name__", ""), {"dropout": 2, "stochastic_depth": 3}
    if node.op != "call_function" or name not in at:
        return False
    return (node.args[at[name]] if len(node.args) > at[name] else node.kwargs.get("training")) is False


# ---- activations that are written out ------------------------------------------------------------------------------------


def _calls(node: Any, *functions: Any) -> bool:
    if not isinstance(node, fx.Node):
        return False
    return (node.op == "call_function" and node.target in functions) or (
        node.op == "call_method" and node.target in functions
    )


def _of_module(r: Rewriter, node: Any, cls: type[nn.Module]) -> bool:
    module = r.module(node)
    return module is not None and _unit.untouched(module, cls)


def _argument(node: Any) -> Any:
    return node.args[0] if isinstance(node, fx.Node) and node.args else None


def _is_softplus(r: Rewriter, node: Any) -> bool:
    if _of_module(r, node, nn.Softplus):
        return r.module(node).beta == 1  # type: ignore[no-any-return]
    return _calls(node, F.softplus) and len(node.args) == 1 and not node.kwargs


def _factor_of(r: Rewriter, x: fx.Node, factor: fx.Node) -> str | None:
    """The activation that ``x * factor`` is."""
    if (_calls(factor, torch.tanh, F.tanh, "tanh") or _of_module(r, factor, nn.Tanh)) and len(factor.users) == 1:
        inner = _argument(factor)
        if _is_softplus(r, inner) and _argument(inner) is x:
            return "mish"
    if len(factor.users) == 1 and _argument(factor) is x:
        act = r.activation_at(factor)
        if act is not None:
            return {"sigmoid": "silu", "hard_sigmoid": "hard_swish"}.get(str(activation_name(act)))
    # x * relu6(x + 3) / 6, either part divided
    if _calls(factor, operator.truediv, torch.div) and len(factor.args) == 2 and factor.args[1] in (6, 6.0):
        clipped = _argument(factor)
        if isinstance(clipped, fx.Node) and _is_relu6_of_x_plus_3(r, clipped, x):
            return "hard_swish"
    return None


def _is_relu6_of_x_plus_3(r: Rewriter, node: fx.Node, x: fx.Node) -> bool:
    act = r.activation_at(node)
    plus = _argument(node)
    return (
        act is not None
        and activation_name(act) == "relu6"
        and _calls(plus, operator.add, torch.add)
        and tuple(plus.args) in ((x, 3), (x, 3.0), (3, x))
    )


def written_out_activations(r: Rewriter) -> None:
    """``x * tanh(softplus(x))``, ``x * sigmoid(x)``, ``x * relu6(x + 3) / 6``."""
    for node in r.nodes():
        factors = _leaves.product(node)
        if factors is None:
            continue
        for x, factor in (factors, factors[::-1]):
            name = _factor_of(r, x, factor)
            if name is not None:
                r.replace("activation", Mish() if name == "mish" else Activation(name), (x,), node)
                break


# ---- units -----------------------------------------------------------------------------------------------------------------


def units(r: Rewriter) -> None:
    """Convolution, BatchNorm and activation, or what there is of them."""
    for node in r.nodes():
        conv = _leaves.convolution(r.module(node))
        x = r.one_input(node)
        if conv is None or x is None or len(shape(x) or ()) != 4:
            continue
        name, last, bn, act = str(node.target), node, None, None
        user = r.only_user(node)
        found = _leaves.norm(r.module(user)) if user is not None and r.one_input(user) is node else None
        if found is not None and user is not None:
            (bn, act), last = found, user
        if act is None:
            last, act = r.activation_after(last)
        if bn is not None or not r.training:  # in training a convolution without BatchNorm is torch's
            r.replace("conv", Unit(conv, bn, act), (x,), last, name)


def lone_norms(r: Rewriter) -> None:
    """BatchNorm and activation without a convolution before them."""
    for node in r.nodes():
        x, found = r.one_input(node), _leaves.norm(r.module(node))
        if found is None or x is None or len(shape(x) or ()) != 4:
            continue
        bn, act = found
        last = node
        if act is None:
            last, act = r.activation_after(node)
        r.replace("norm", Unit(None, bn, act), (x,), last, str(node.target))


def sums(r: Rewriter) -> None:
    """``act(unit(x) + y)`` and ``unit(x) + y``: the addition, and the activation behind it, in the unit's last pass."""
    for node in r.nodes():
        terms = _leaves.addition(node)
        if (
            terms is None
            or (len(terms[0].users) > 1 and _leaves.is_in_place(node))
            or not shape(terms[0]) == shape(terms[1]) == shape(node)
        ):
            continue
        order = {n: i for i, n in enumerate(r.graph.nodes)}
        first, second = sorted(terms, key=order.__getitem__)
        # The later one is the branch, the other the way past it.
        if not _join(r, node, second, first):
            _join(r, node, first, second)


def _join(r: Rewriter, node: fx.Node, unit_node: fx.Node, other: fx.Node) -> bool:
    unit = r.module(unit_node)
    if not isinstance(unit, Unit) or unit.added is not None or len(unit_node.users) != 1 or unit_node is other:
        return False
    x, last, act = unit_node.args[0], node, unit.act
    assert isinstance(x, fx.Node)
    if act is None:
        last, act = r.activation_after(node)
    name = r.regions[unit_node].name
    role = "residual" if unit.act is not None else "shortcut"
    return r.replace("conv_sum", Unit(unit.conv, unit.bn, act, role), (x, other), last, name) is not None


# ---- single layers -----------------------------------------------------------------------------------------------------------


def layers(r: Rewriter) -> None:
    """Max pooling and linear layers whose kernels here are faster in evaluation."""
    for cls, ours, kind in ((nn.MaxPool2d, MaxPool2d, "max_pool"), (nn.Linear, Linear, "linear")):
        for node in r.nodes():
            module, x = r.module(node), r.one_input(node)
            if x is not None and _unit.untouched(module, cls):
                r.replace(kind, _leaves.view_as(ours, module), (x,), node, str(node.target))
