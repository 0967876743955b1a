"""Activations as modules, by the names that the fused ops take (``cnnkernels._activation``)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cnnkernels import _activation, ops


class Activation(nn.Module):
    """``ops.activation(x, name)`` as a module: one pass forward, one backward, only x kept in between."""

    def __init__(self, name: str) -> None:
        super().__init__()
        _activation.check("Activation", name, "name")
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return ops.activation(x, self.name)

    def extra_repr(self) -> str:
        return repr(self.name)


class Mish(Activation):
    """``x * tanh(log(1 + exp(x)))`` (Misra 2019, arXiv:1908.08681); takes the place of ``torch.nn.Mish``.

    ``inplace`` is accepted for that and changes nothing: the result is always a new tensor.
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__("mish")

    def extra_repr(self) -> str:
        return ""


_MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hard_swish": nn.Hardswish,
    "hard_sigmoid": nn.Hardsigmoid,
}

_NAMES: dict[type[nn.Module], str] = {cls: name for name, cls in _MODULES.items()} | {
    nn.Identity: "identity",
    nn.Sigmoid: "sigmoid",
    nn.Mish: "mish",
    Mish: "mish",
}


def create_activation(name: str, inplace: bool = False) -> nn.Module:
    """The module for an activation's name: torch's own class where there is one, so that other tools recognise it.

    ``mish`` gives ``cnnkernels.nn.Mish``; ``leaky_relu(0.1)`` sets the slope.  ValueError for an unknown name.
    """
    code, slope = _activation.check("create_activation", name, "name")
    if name in _MODULES:
        arguments: dict[str, Any] = {"inplace": inplace}
        return _MODULES[name](**arguments)
    if code == _activation.CODES["leaky_relu"]:
        return nn.LeakyReLU(slope, inplace=inplace)
    return {"identity": nn.Identity, "sigmoid": nn.Sigmoid, "mish": Mish}[name]()


def activation_name(module: nn.Module | None) -> str | None:
    """The name under which a fused op computes this module; None if no op does.  Subclasses are not recognised."""
    if module is None:
        return "identity"
    cls = type(module)
    if cls is nn.LeakyReLU:
        return f"leaky_relu({module.negative_slope})"
    if cls is Activation:
        return str(module.name)
    return _NAMES.get(cls)
