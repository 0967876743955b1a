"""``cnnkernels.tune`` and ``cnnkernels.tuning``: measuring which backend is the fastest, shape by shape."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cnnkernels._op import REGISTRY
from cnnkernels.choice import chooser, store


@dataclass(frozen=True)
class Measured:
    """What one op was found to run fastest on, for arguments of one key."""

    op: str
    key: str
    """Dtypes, shapes, layouts and options of the arguments."""
    backend: str
    seconds: dict[str, float]
    """Backend -> median of a call; without those that failed or took ten times the fastest."""


@contextlib.contextmanager
def tuning() -> Iterator[list[Measured]]:
    """Inside, an op whose arguments nothing is known about is measured on every backend that can run them.

    The fastest one is kept: for later calls in this process, and in the user's cache folder (or ``CNNKERNELS_CACHE``)
    for later processes with this device, PyTorch and package.  PyTorch's own form of the op is one of the candidates,
    named ``reference``.  Yields the list that the measurements are added to.

    Nothing is measured while a CUDA graph is captured, nor where ``use_backend`` or ``CNNKERNELS_BACKEND`` asks for a
    backend.  The state is the process's; modules in evaluation on a CPU call kernels of their own and are not affected.
    """
    found: list[Measured] = []

    def listen(op: str, key: str, backend: str, seconds: dict[str, float]) -> None:
        found.append(Measured(op, key, backend, seconds))

    before = store.tuning
    chooser.listeners.append(listen)
    _set(True)
    try:
        yield found
    finally:
        chooser.listeners.remove(listen)
        _set(before)
        for known in store.loaded():
            known.save()


def _set(on: bool) -> None:
    if on and not store.tuning:
        store.forget()  # another process may have measured, and the number of threads may be another
    store.tuning = on
    for op in REGISTRY.values():
        op.forget_choices()


def tune(function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Measured]:
    """Calls ``function(*args, **kwargs)`` once while ``tuning()``: an op, a module, a whole training step.

    Returns what was measured, which is nothing where all of it was known before.
    """
    with tuning() as found:
        function(*args, **kwargs)
    return found
