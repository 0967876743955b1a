"""CUDA graphs of a network in evaluation: its few hundred launches as one.

Launching a kernel costs the host some microseconds, which at small batches is longer than the kernel takes; a replayed graph
launches all of them at once.  A graph holds addresses, so the arguments are copied to where it reads them and its results to
where nobody overwrites them, and it is of one combination of sizes, and of one state of the network: whatever decides what a
module computes (classes, hooks, children, modes, versions of parameters) is watched as for plans (``nn/_plan.py``).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cnnkernels import _ext, _op
from cnnkernels.nn._plan import snapshot_of

MOST = 8
"""Combinations of sizes that have a graph: each keeps memory for all that the network computes."""
WARM_UPS = 2  # calls before the capture, in which kernels are compiled, loaded and chosen, and weights folded

Forward = Callable[..., Any]


@dataclass
class Captured:
    """A graph, what it reads and what it writes."""

    graph: Any  # torch.cuda.CUDAGraph
    arguments: list[Any]
    results: Any
    replayed: Any = None  # event of the last replay, which another stream has to wait for

    def __call__(self, args: Sequence[Any]) -> Any:
        stream = torch.cuda.current_stream(self.graph_device)
        if self.replayed is not None:
            stream.wait_event(self.replayed)
        for own, given in zip(self.arguments, args, strict=True):
            if isinstance(own, Tensor):
                own.copy_(given)
        self.graph.replay()
        results = pytree.tree_map(lambda r: r.clone() if isinstance(r, Tensor) else r, self.results)
        self.replayed = stream.record_event(self.replayed)
        return results

    @property
    def graph_device(self) -> torch.device:
        return next(a for a in self.arguments if isinstance(a, Tensor)).device


def capture(forward: Forward, args: Sequence[Any]) -> Captured:
    """RuntimeError where that cannot be, because something in the network waits for the GPU."""
    own = [a.detach().clone() if isinstance(a, Tensor) else a for a in args]
    device = next(a for a in own if isinstance(a, Tensor)).device
    with torch.cuda.device(device), torch.no_grad():
        aside, current = torch.cuda.Stream(), torch.cuda.current_stream()
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                forward(*own)
        current.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = forward(*own)
    return Captured(graph, own, results)


def can_serve(args: Sequence[Any]) -> bool:
    """Whether a graph may take the place of a call on these: tensors of one GPU, with nobody watching or capturing."""
    devices = {a.device for a in args if isinstance(a, Tensor)}
    return (
        len(devices) == 1
        and next(iter(devices)).type == "cuda"
        and all(type(a) is Tensor for a in args if isinstance(a, Tensor))
        and not torch.compiler.is_compiling()
        and not _op._dispatcher_is_needed()
        and not torch.cuda.is_current_stream_capturing()
    )


class Graphs:
    """Those of one network.  ``graphs(model, forward, args)`` is ``forward(*args)``."""

    def __init__(self) -> None:
        self._kept: dict[Any, tuple[Any, Captured | None]] = {}  # by sizes; with the snapshot it was made under
        self._lock = threading.Lock()
        self.refusal: str | None = None
        """Why there is none."""

    def __call__(self, model: nn.Module, forward: Forward, args: Sequence[Any]) -> Any:
        key = _key(args)
        if _ext.module is None or key is None:
            return forward(*args)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and not kept[0].holds():
                self._kept.clear()  # the others are of the same state
                kept = None
            if kept is None:
                if len(self._kept) >= MOST:
                    return forward(*args)
                made = self._captured(forward, args)  # in which modules may set attributes of theirs
                kept = self._kept[key] = (snapshot_of(model.modules()), made)
            found = kept[1]
            return forward(*args) if found is None else found(args)

    def forget(self) -> None:
        with self._lock:
            self._kept.clear()

    def _captured(self, forward: Forward, args: Sequence[Any]) -> Captured | None:
        try:
            return capture(forward, args)
        except RuntimeError as error:
            self.refusal = str(error).split("\n")[0]
            warnings.warn(
                f"cnnkernels: this network cannot be captured in a CUDA graph and runs without one: {self.refusal}",
                RuntimeWarning,
                stacklevel=4,
            )
            return None


def _key(args: Sequence[Any]) -> Any:
    """None where an argument cannot be told from others like it."""
    key = tuple((a.shape, a.stride(), a.dtype, a.device) if isinstance(a, Tensor) else (type(a), a) for a in args)
    try:
        hash(key)
    except TypeError:
        return None
    return key


def replayed(module: nn.Module, args: Sequence[Any]) -> Callable[[], Any]:
    """A call of it as a graph and the wait for its end, for timing: without the host's time to launch kernels."""
    captured = capture(module, args)

    def call() -> None:
        captured.graph.replay()
        torch.cuda.synchronize()

    return call
