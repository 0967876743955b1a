"""What a layer is called in a picture, and how equal neighbours are folded into one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from cnnkernels.nn import Activation, ChannelShuffle, SqueezeExcite

TIMES = "\N{MULTIPLICATION SIGN}"

_SILENT = (nn.Dropout, nn.Identity, nn.Flatten, nn.ReflectionPad2d, nn.ZeroPad2d)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_ACTIVATIONS = {
    "ReLU": "ReLU",
    "ReLU6": "ReLU6",
    "SiLU": "SiLU",
    "Hardswish": "h-swish",
    "Hardsigmoid": "h-sigmoid",
    "LeakyReLU": "leaky ReLU",
    "Mish": "Mish",
    "Sigmoid": "sigmoid",
}


@dataclass(frozen=True)
class Label:
    """One layer: its text and what colour it has (a key of ``dot.COLOURS``)."""

    text: str
    kind: str


def is_layer(module: nn.Module) -> bool:
    """Whether a picture shows it as one thing, whatever it is made of."""
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        return False
    return isinstance(module, (SqueezeExcite, ChannelShuffle)) or not any(True for _ in module.children())


def normalisation(module: nn.Module) -> str | None:
    """BatchNorm and activations, which are written under the convolution before them; None for anything else."""
    if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
        return "BN"
    if isinstance(module, Activation):
        return {"mish": "Mish"}.get(module.name, module.name)
    return _ACTIVATIONS.get(type(module).__name__)


def _both(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _window(kernel: Any, stride: Any) -> str:
    (kh, kw), (sh, sw) = _both(kernel), _both(stride)
    step = "" if sh == sw == 1 else f" /{sh}" if sh == sw else f" /{sh}{TIMES}{sw}"
    return f"{kh}{TIMES}{kw}{step}"


def label(module: Any) -> Label | None:
    """None for layers that are not shown: dropout and its like, and what ``normalisation`` names."""
    if isinstance(module, nn.Conv2d):
        depthwise = module.groups == module.in_channels == module.out_channels and module.groups > 1
        pointwise = tuple(module.kernel_size) == (1, 1)
        groups = f" g={module.groups}" if module.groups > 1 and not depthwise else ""
        text = (
            f"{_window(module.kernel_size, module.stride)}{' dw' if depthwise else ''}{groups}, {module.out_channels}"
        )
        return Label(text, "depthwise" if depthwise else "pointwise" if pointwise else "convolution")
    if isinstance(module, nn.Linear):
        return Label(f"linear, {module.out_features}", "linear")
    if isinstance(module, _POOLS):
        name = "max pool" if "Max" in type(module).__name__ else "average pool"
        if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
            return Label(f"{name} {_window(module.kernel_size, module.stride)}", "pool")
        size = _both(module.output_size)
        return Label(f"global {name}" if size == (1, 1) else f"{name} to {size[0]}{TIMES}{size[1]}", "pool")
    if isinstance(module, SqueezeExcite):
        return Label(f"SE, {module.squeeze_channels}", "gate")
    if isinstance(module, ChannelShuffle):
        return Label(f"shuffle, {module.groups} groups", "shuffle")
    if isinstance(module, _SILENT) or normalisation(module) is not None:
        return None
    return Label(words(type(module).__name__), "other")


_NAMES = ("MBConv", "RepVGG", "MixConv")  # written as one word in their papers


def words(name: str) -> str:
    """InvertedResidual -> "Inverted residual"; capitals that stand together stay: SEBlock -> "SE block"."""
    parts = re.findall("|".join(_NAMES) + r"|[A-Z]+(?![a-z])[0-9]*|[A-Z]?[a-z0-9]+", name.strip("_"))
    return " ".join(p.lower() if i and p.istitle() and len(p) > 1 else p for i, p in enumerate(parts))


T = TypeVar("T")


def fold(items: Sequence[T], longest: int = 4) -> list[tuple[list[T], int]]:
    """Runs of equal groups: [a, b, a, b, c] -> [([a, b], 2), ([c], 1)]; the shortest group that covers most goes first."""
    out: list[tuple[list[T], int]] = []
    i = 0
    while i < len(items):
        best = (1, 1)  # period, times
        for period in range(1, min(longest, (len(items) - i) // 2) + 1):
            group, times = items[i : i + period], 1
            while items[i + times * period : i + (times + 1) * period] == group:
                times += 1
            if times > 1 and times * period > best[0] * best[1]:
                best = (period, times)
        out.append((list(items[i : i + best[0]]), best[1]))
        i += best[0] * best[1]
    return out
