"""The time of each layer on the inputs that it has in the network, and which ceiling it is under."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnkernels import _backend
from cnnkernels.compare.measure import take_statistics
from cnnkernels.models import Network, create_model, model_entry
from cnnkernels.nn import InvertedResidual
from cnnkernels.roofline.ceilings import Ceilings, best_seconds
from cnnkernels.roofline.layers import Layer, layers_of

Call = Callable[[], Any]

_VISIT = 500e-6  # seconds of calls that one measurement of a layer covers
CONTENDERS: dict[str, str | None] = {"cnnkernels": None, "eager": "reference"}
"""Name -> backend of the network."""


@dataclass(frozen=True)
class Row:
    """A layer as one contender computes it."""

    contender: str
    layer: str
    shape: tuple[int, ...]
    """Of the result."""
    flops: int
    bytes: int
    seconds: float
    compute_seconds: float
    """What its arithmetic takes at the ceiling."""
    memory_seconds: float
    """What a copy of as many bytes takes."""
    call_seconds: float
    """What the smallest block takes, whose data is nothing."""

    @property
    def bound(self) -> str:
        """Which of the three is the longest: compute, memory or overhead."""
        least = {"compute": self.compute_seconds, "memory": self.memory_seconds, "overhead": self.call_seconds}
        return max(least, key=lambda name: least[name])

    @property
    def share(self) -> float:
        """Of the roof: the time that the data needs at the ceilings, divided by the time that it took."""
        return max(self.compute_seconds, self.memory_seconds) / self.seconds

    @property
    def intensity(self) -> float:
        """FLOPs a byte."""
        return self.flops / self.bytes


@dataclass(frozen=True)
class Result:
    network: str
    batch: int
    size: int
    ceilings: Ceilings
    rows: list[Row]
    network_seconds: dict[str, float]
    """Contender -> time of a call of the whole network, whose trunk may be one native call."""


def profile(
    name: str,
    batch: int = 1,
    size: int | None = None,
    contenders: tuple[str, ...] = ("cnnkernels",),
    rounds: int = 15,
    ceilings: Ceilings | None = None,
) -> Result:
    """A network of the registry with random weights, layer by layer; see ``Result``.

    Each layer is called over and over on the input that the layer before it made, so that this input is in whichever cache
    it fits into, as it is in the network; its weights are too, which in the network they need not be.
    """
    size = model_entry(name).input_size if size is None else size
    torch.manual_seed(0)
    model = create_model(name)
    if not isinstance(model, Network):
        raise ValueError(f"{name} is not a classification network: its layers do not follow one after the other")
    take_statistics(model, torch.randn(2, 3, size, size))
    model.eval()
    x = torch.randn(batch, 3, size, size)
    ceilings = ceilings or Ceilings.measured()
    result = Result(name, batch, size, ceilings, [], {})
    for contender in contenders:
        _measure(result, contender, copy.deepcopy(model), x, rounds)
    return result


def _measure(result: Result, contender: str, model: Network, x: Tensor, rounds: int) -> None:
    """Adds one contender's rows."""
    layers, smallest = layers_of(model, x), _smallest_block()
    model.backend = CONTENDERS[contender]
    with torch.inference_mode(), _backend.use_backend(model.backend or "auto"):
        x = _quickest_layout(model, x) if model.backend == "reference" else model._as_computed(x)
        calls = {f"{i}": call for i, call in enumerate(_calls(layers, x))}
        seconds = _fastest({**calls, "network": lambda: model(x)}, rounds)
        call_seconds = best_seconds(smallest)
    result.network_seconds[contender] = seconds["network"]
    for i, layer in enumerate(layers):
        least = result.ceilings.compute_seconds(layer.flops), result.ceilings.memory_seconds(layer.bytes)
        result.rows.append(
            Row(contender, layer.name, layer.shape, layer.flops, layer.bytes, seconds[f"{i}"], *least, call_seconds)
        )


def _quickest_layout(model: Network, x: Tensor) -> Tensor:
    """x as the plain modules take the least time for it."""
    images = [x, x.contiguous(memory_format=torch.channels_last)]
    times = _fastest({str(i): functools.partial(model, image) for i, image in enumerate(images)}, rounds=3)
    return images[0] if times["0"] <= times["1"] else images[1]


def _calls(layers: Sequence[Layer], x: Any) -> Iterator[Call]:
    """Each layer on the input that it has in the network."""
    for layer in layers:
        yield functools.partial(layer.call, x)
        x = layer.call(x)


def _smallest_block() -> Call:
    """MobileNetV2's, of four pixels."""
    x = torch.ones(1, 8, 2, 2).contiguous(memory_format=torch.channels_last)
    return functools.partial(InvertedResidual(8, 8, stride=1, expand_ratio=1).eval(), x)


def _fastest(calls: Mapping[str, Call], rounds: int) -> dict[str, float]:
    """Seconds of a call of each: the mean of a visit, of the fastest visit, as the ceilings are the best of many.

    They take turns, so that a busy while hits some of the visits of each, not all visits of some.
    """
    for call in calls.values():
        call()  # finds its way, folds and packs
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, own in times.items():
            call = calls[name]
            call()  # what it reads comes back into the caches
            start = now = time.perf_counter()
            n = 0
            while now - start < _VISIT:
                call()
                n, now = n + 1, time.perf_counter()
            own.append((now - start) / n)
    return {name: min(own) for name, own in times.items()}
