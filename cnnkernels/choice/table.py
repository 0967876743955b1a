"""Measured choices as JSON: ``{"schema": 1, "device": ..., ..., "choices": {op: {key: backend}}}``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cnnkernels import _backend

SCHEMA = 1
MAX_BYTES = 1 << 20
MAX_CHOICES = 4096
_MAX_NAME = 1024  # characters of a key, a name or a version

Choices = dict[str, dict[str, str]]
"""op -> {key: backend}"""


class Damaged(ValueError):
    """Not a table, or not one of this schema."""


@dataclass
class Table:
    device: str
    torch: str
    """The version that it was measured with."""
    cnnkernels: str
    source: str
    """For people: who measured what, and how."""
    choices: Choices = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.choices.values()))


_HEADER = ("device", "torch", "cnnkernels", "source")


def parse(content: bytes) -> Table:
    """The table of a file's content; ``Damaged``, which says what was expected, for anything else."""
    if len(content) > MAX_BYTES:
        raise Damaged(f"expected at most {MAX_BYTES} bytes, got {len(content)}")
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as e:
        raise Damaged(f"expected JSON: {e}") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise Damaged(f"expected an object of schema {SCHEMA}, got {str(found)[:40]}")
    if set(data) != {"schema", "choices", *_HEADER}:
        raise Damaged(f"expected the fields schema, choices, {', '.join(_HEADER)}, got {str(sorted(data))[:200]}")
    for name in _HEADER:
        _string(data[name], name)
    table = Table(data["device"], data["torch"], data["cnnkernels"], data["source"], dict(_choices(data["choices"])))
    if len(table) > MAX_CHOICES:
        raise Damaged(f"expected at most {MAX_CHOICES} choices, got {len(table)}")
    return table


def _string(value: Any, what: str) -> None:
    if not isinstance(value, str) or len(value) > _MAX_NAME:
        raise Damaged(f"expected a string of at most {_MAX_NAME} characters for {what}, got {str(value)[:40]!r}")


def _choices(ops: Any) -> Iterator[tuple[str, dict[str, str]]]:
    if not isinstance(ops, dict):
        raise Damaged(f"expected an object of ops, got {type(ops).__name__}")
    for op, chosen in ops.items():
        if not isinstance(chosen, dict):
            raise Damaged(f"expected an object of keys for {op}, got {type(chosen).__name__}")
        for key, backend in chosen.items():
            _string(key, f"a key of {op}")
            if backend not in _backend.NAMES:
                raise Damaged(f"expected one of {', '.join(_backend.NAMES)} for {op}, got {str(backend)[:40]!r}")
        yield op, chosen


def render(table: Table) -> bytes:
    """The content that ``parse`` reads; of more than it takes, the last ones of each op."""
    share = MAX_CHOICES // max(len(table.choices), 1) if len(table) > MAX_CHOICES else MAX_CHOICES
    while True:
        choices = {op: dict(list(chosen.items())[-share:]) for op, chosen in table.choices.items()}
        data = {"schema": SCHEMA, **{name: getattr(table, name) for name in _HEADER}, "choices": choices}
        content = (json.dumps(data, indent=1) + "\n").encode()
        if len(content) <= MAX_BYTES or share == 0:
            return content
        share //= 2
