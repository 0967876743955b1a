"""Which backend a caller asked for, and a record of which one ran."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

NAMES = ("cpu", "cuda", "triton", "reference")


def _validated(name: str | None, source: str) -> str | None:
    if name is None or name in ("", "auto"):
        return None
    if name not in NAMES:
        raise ValueError(f"{source}: backend must be auto, {', '.join(NAMES)}, got {name!r}")
    return name


# Process-wide on purpose: autograd runs backward passes on threads of its own, which must see the same choice.
_wanted = _validated(os.environ.get("CNNKERNELS_BACKEND"), "CNNKERNELS_BACKEND")


def wanted() -> str | None:
    """The backend asked for by ``use_backend`` or ``CNNKERNELS_BACKEND``; None lets each op choose."""
    return _wanted


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs every op inside the block on one backend: "cpu", "cuda", "triton" or "reference"; "auto" lifts it.

    Where that backend cannot run a call (not built, wrong device, a case it does not cover), ``reference`` does, and
    ``cnnkernels.explain()`` lists the call and the reason.  The choice holds for the whole process.
    """
    global _wanted
    before, _wanted = _wanted, _validated(name, "use_backend")
    try:
        yield
    finally:
        _wanted = before


@dataclass(frozen=True)
class Run:
    """One executed op call: what ran, and if that was a fallback, why."""

    op: str
    backend: str
    reason: str | None = None


_records: list[Run] | None = None
fallbacks: dict[tuple[str, str, str], int] = {}
"""(op, backend that could not run, reason) -> number of calls that fell back to ``reference``."""


@contextlib.contextmanager
def record_backends() -> Iterator[list[Run]]:
    """Collects a ``Run`` for every op call inside the block, in order."""
    global _records
    runs: list[Run] = []
    before, _records = _records, runs
    try:
        yield runs
    finally:
        _records = before


def ran(op: str, backend: str) -> None:
    if _records is not None:
        _records.append(Run(op, backend))


def fell_back(op: str, from_backend: str, reason: str) -> None:
    key = (op, from_backend, reason)
    fallbacks[key] = fallbacks.get(key, 0) + 1
    if _records is not None:
        _records.append(Run(op, "reference", f"{from_backend}: {reason}"))
