"""Time and memory of a whole network, as it was and optimised."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnnkernels._layout import OVERRUNS_BELOW
from cnnkernels._timing import interleaved_times
from cnnkernels.optimize._compare import leaves


def in_channels_last(x: Any) -> Any:
    """x in that layout if it is an image."""
    if isinstance(x, Tensor) and x.dim() == 4 and x.is_floating_point():
        return x.contiguous(memory_format=torch.channels_last)
    return x


def step(module: nn.Module, args: Sequence[Any], training: bool) -> Callable[[], Any]:
    """A call without gradients, or a forward and a backward pass."""
    synchronize = torch.cuda.synchronize if any(isinstance(a, Tensor) and a.is_cuda for a in args) else None

    def infer() -> Any:
        with torch.no_grad():
            y = module(*args)
        if synchronize is not None:
            synchronize()
        return y

    if not training:
        return infer
    xs = [a.detach().requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
    tensors = [*(x for x in xs if isinstance(x, Tensor)), *module.parameters()]

    def train() -> None:
        outputs = [t for t in leaves(module(*xs)) if isinstance(t, Tensor) and t.requires_grad]
        torch.autograd.backward(outputs, [torch.ones_like(t) for t in outputs])
        for x in tensors:
            x.grad = None
        if synchronize is not None:
            synchronize()

    return train


@dataclass(frozen=True)
class Latencies:
    """before, after: median milliseconds of a network in its faster layout, and of the optimised one, measured in turns."""

    before: float
    layout: str
    after: float
    slower: bool
    """By the best of all calls, which a busy machine disturbs less than medians, or clearly by these."""


def latencies(
    model: nn.Module, fast: nn.Module, args: Sequence[Any], training: bool, rounds: int = 15, seconds: float = 4.0
) -> Latencies:
    """Statistics of BatchNorms are not touched: in training copies run."""
    ours_step = step(copy.deepcopy(fast) if training else fast, args, training)
    calls = [*_in_its_layouts(model, args, training), ours_step]
    with torch.random.fork_rng(devices=[]):
        *others, ours = interleaved_times(calls, rounds, seconds)
    medians = [1e3 * statistics.median(t) for t in others]
    before, after = min(medians), 1e3 * statistics.median(ours)
    layout = ("contiguous", "channels_last")[medians.index(before)]
    return Latencies(before, layout, after, min(ours) > min(map(min, others)) or after > 1.05 * before)


def _in_its_layouts(model: nn.Module, args: Sequence[Any], training: bool) -> list[Callable[[], Any]]:
    """Calls on the arguments as they are, and in channels_last if it may be."""
    calls = [step(copy.deepcopy(model) if training else model, args, training)]
    if not (training and overruns_in_channels_last(model, args)):
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        calls.append(step(last, [in_channels_last(a) for a in args], training))
    return calls


def trains_faster_in_channels_last(model: nn.Module, args: Sequence[Any]) -> bool:
    """Whether steps of training take less time in that layout than on the arguments as they are."""
    with torch.random.fork_rng(devices=[]):
        plain, *last = interleaved_times(_in_its_layouts(model, args, True), rounds=5, seconds=2.0)
    return min(map(min, last), default=math.inf) < min(plain)


def overruns_in_channels_last(model: nn.Module, args: Sequence[Any]) -> bool:
    """Whether PyTorch's own backward pass would write past a gradient: RepVGG's and MobileOne's, of their first 1x1."""

    def overruns(m: nn.Module) -> bool:
        if not isinstance(m, nn.Conv2d):
            return False
        return m.groups == 1 and m.in_channels < OVERRUNS_BELOW and set(m.kernel_size) == {1} != set(m.stride)

    return any(isinstance(a, Tensor) and a.is_cpu for a in args) and any(map(overruns, model.modules()))


def kept_bytes(model: nn.Module, args: Sequence[Any]) -> int:
    """Of the tensors that a forward pass keeps for the backward pass, parameters aside; each storage once."""
    model = copy.deepcopy(model)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, tuple[int, Any]] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), storage)  # held, so that no address comes twice
        return t

    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = model(*args)
    del result
    return sum(n for n, _ in kept.values())


def written_bytes(nodes: Iterable[fx.Node], itemsize: int) -> int:
    """Of the values of these nodes; views count, too."""
    return sum(math.prod(n.meta["shape"]) for n in nodes if n.meta.get("shape") is not None) * itemsize
