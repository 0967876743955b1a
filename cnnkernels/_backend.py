"""Which backend a caller asked for, and a record of which one ran."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

NAMES = ("cpu", "cuda", "triton", "reference")


def validated(name: str | None, source: str) -> str | None:
    """The name, or None for "auto"; ValueError, naming the source, for one that is no backend's."""
    if name is None or name in ("", "auto"):
        return None
    if name not in NAMES:
        raise ValueError(f"{source}: backend must be auto, {', '.join(NAMES[:-1])} or {NAMES[-1]}, got {name!r}")
    return name


@dataclass(frozen=True)
class Run:
    """One executed op call: what ran, and if that was a fallback, why."""

    op: str
    backend: str
    reason: str | None = None
    chosen: bool = False
    """Whether it ran because it was measured to be faster than the default (``cnnkernels.tune``)."""


class _State:
    """Process-wide on purpose: autograd runs backward passes on threads of its own, which must see the same choice."""

    def __init__(self) -> None:
        self.set(validated(os.environ.get("CNNKERNELS_BACKEND"), "CNNKERNELS_BACKEND"), None)

    def set(self, wanted: str | None, records: list[Run] | None) -> None:
        self.wanted = wanted
        self.records = records
        self.plain = wanted is None and records is None  # nothing but the default choice, and nobody watching


STATE = _State()


def wanted() -> str | None:
    """The backend asked for by ``use_backend`` or ``CNNKERNELS_BACKEND``; None lets each op choose."""
    return STATE.wanted


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs every op inside the block on one backend: "cpu", "cuda", "triton" or "reference"; "auto" lifts it.

    Where that backend cannot run a call (not built, wrong device, a case it does not cover), ``reference`` does, and
    ``cnnkernels.explain()`` lists the call and the reason.  The choice holds for the whole process.
    """
    before = STATE.wanted
    STATE.set(validated(name, "use_backend"), STATE.records)
    try:
        yield
    finally:
        STATE.set(before, STATE.records)


fallbacks: dict[tuple[str, str, str], int] = {}
"""(op, backend that could not run, reason) -> number of calls that fell back to ``reference``."""


@contextlib.contextmanager
def record_backends() -> Iterator[list[Run]]:
    """Collects a ``Run`` for every op call inside the block, in order."""
    runs: list[Run] = []
    before = STATE.records
    STATE.set(STATE.wanted, runs)
    try:
        yield runs
    finally:
        STATE.set(STATE.wanted, before)


def ran(op: str, backend: str, chosen: bool = False) -> None:
    if STATE.records is not None:
        STATE.records.append(Run(op, backend, chosen=chosen))


def fell_back(op: str, from_backend: str, reason: str) -> None:
    key = (op, from_backend, reason)
    fallbacks[key] = fallbacks.get(key, 0) + 1
    if STATE.records is not None:
        STATE.records.append(Run(op, "reference", f"{from_backend}: {reason}"))
