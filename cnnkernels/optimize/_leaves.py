"""What the nodes of a traced network are: convolutions, BatchNorms, activations, whoever wrote them.

Classes of timm are known by name, as timm need not be installed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from cnnkernels.nn._unit import untouched
from cnnkernels.nn.activation import activation_name, create_activation
from cnnkernels.nn.conv_same import Conv2dSame

_TIMM_ACTIVATIONS = {
    "Swish": "silu",
    "Mish": "mish",
    "Sigmoid": "sigmoid",
    "HardSwish": "hard_swish",
    "HardSigmoid": "hard_sigmoid",
}

_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu",
    F.relu_: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    F.relu6: "relu6",
    F.silu: "silu",
    F.mish: "mish",
    F.hardswish: "hard_swish",
    F.hardsigmoid: "hard_sigmoid",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
}
_METHODS = {"relu": "relu", "relu_": "relu", "sigmoid": "sigmoid", "sigmoid_": "sigmoid"}
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_PRODUCTS = (operator.mul, operator.imul, torch.mul)


def class_name(module: object) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def has_hooks(module: nn.Module) -> bool:
    return not untouched(module, type(module))


def is_timm_norm_act(module: object) -> bool:
    """timm's BatchNorm with an activation (and a place for dropout) in it."""
    return class_name(module) == "timm.layers.norm_act.BatchNormAct2d"


def is_leaf(module: nn.Module) -> bool:
    """Of classes outside torch.nn: those that are called, not looked into."""
    return (
        has_hooks(module)
        or type(module).__module__.startswith("cnnkernels.")
        or is_timm_norm_act(module)
        or class_name(module) == "timm.layers.conv2d_same.Conv2dSame"
        or _timm_activation(module) is not None
    )


def view_as(cls: type[nn.Module], module: nn.Module) -> Any:
    """The module as one of another class: the same parameters, buffers, children, hooks and numbers, now and later."""
    new = cls.__new__(cls)
    object.__setattr__(new, "__dict__", module.__dict__)
    return new


def convolution(module: Any) -> nn.Conv2d | None:
    """The module as a convolution that the fused ops know."""
    if class_name(module) == "timm.layers.conv2d_same.Conv2dSame":
        return view_as(Conv2dSame, module) if untouched(module, type(module)) else None
    if untouched(module, nn.Conv2d, Conv2dSame) and module.padding_mode == "zeros":
        return module  # type: ignore[no-any-return]
    return None


def norm(module: Any) -> tuple[nn.Module, nn.Module | None] | None:
    """The module as (BatchNorm, the activation in it or None)."""
    if is_timm_norm_act(module):
        if not untouched(module, type(module)) or not untouched(module.drop, nn.Identity):
            return None
        act = activation(module.act)
        if act is None:
            return None
        return view_as(nn.BatchNorm2d, module), None if activation_name(act) == "identity" else act
    return (module, None) if untouched(module, nn.BatchNorm2d, nn.SyncBatchNorm) else None


def _timm_activation(module: object) -> str | None:
    if type(module).__module__ != "timm.layers.activations":
        return None
    return _TIMM_ACTIVATIONS.get(type(module).__qualname__)


def activation(module: Any) -> nn.Module | None:
    """The module as an activation that the fused ops know."""
    if not untouched(module, type(module)):
        return None
    of_timm = _timm_activation(module)
    if of_timm is not None:
        return create_activation(of_timm)
    return module if activation_name(module) is not None else None


def activation_of_call(node: fx.Node) -> nn.Module | None:
    """What a function or method call does, as a module."""
    if node.op == "call_method":
        name = _METHODS.get(str(node.target)) if len(node.args) == 1 and not node.kwargs else None
    elif node.op == "call_function":
        name = _name_of_function(node)
    else:
        return None
    return None if name is None else create_activation(name)


def _name_of_function(node: fx.Node) -> str | None:
    function, rest = node.target, node.args[1:]
    options = {k: v for k, v in node.kwargs.items() if k != "inplace"}
    if function is F.leaky_relu:
        slope = rest[0] if rest else options.pop("negative_slope", 0.01)
        return f"leaky_relu({slope})" if isinstance(slope, float) and not options else None
    if function is F.hardtanh:
        low, high = (*rest, *([None] * 2))[:2] if rest else (options.get("min_val"), options.get("max_val"))
        return "relu6" if (low, high) == (0, 6) else None
    name = _FUNCTIONS.get(function)
    return name if not options and all(isinstance(a, bool) for a in rest) else None


def _pair(node: fx.Node, functions: tuple[Callable[..., Any], ...], methods: tuple[str, ...]) -> tuple[Any, ...] | None:
    known = (node.op == "call_function" and node.target in functions) or (
        node.op == "call_method" and node.target in methods
    )
    if not known or node.kwargs or len(node.args) != 2 or not all(isinstance(a, fx.Node) for a in node.args):
        return None
    return node.args


def addition(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The terms of a sum of two."""
    return _pair(node, _ADDITIONS, ("add", "add_"))  # type: ignore[return-value]


def product(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    return _pair(node, _PRODUCTS, ("mul", "mul_"))  # type: ignore[return-value]


def is_in_place(node: fx.Node) -> bool:
    """A sum or product that is written into its first term."""
    return node.target in (operator.iadd, operator.imul) or str(node.target) in ("add_", "mul_")


def shape(node: Any) -> tuple[int, ...] | None:
    """Of the node's value on the example."""
    value = node.meta.get("shape") if isinstance(node, fx.Node) else None
    return tuple(value) if value is not None else None
