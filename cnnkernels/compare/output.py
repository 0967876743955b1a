"""Rows as a table, CSV and JSON; files appear whole or not at all."""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import pathlib
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any

import torch

from cnnkernels import _machine
from cnnkernels._files import write_whole
from cnnkernels.compare.measure import Row, Settings


def _number(value: float | None, form: str, unit: float = 1.0) -> str:
    return "" if value is None else format(value / unit, form)


COLUMNS: dict[str, Callable[[Row], str]] = {
    "network": lambda r: r.name,
    "batch": lambda r: str(r.batch),
    "size": lambda r: str(r.size),
    "params M": lambda r: _number(r.parameters, ".2f", 1e6),
    "GMAC": lambda r: _number(r.macs, ".3f", 1e9),
    "act M": lambda r: _number(r.activations, ".1f", 1e6),
    "top-1 %": lambda r: _number(r.top1, ".1f"),
    "eager ms": lambda r: _number(r.eager_ms, ".2f"),
    "fused ms": lambda r: r.problem or _number(r.fused_ms, ".2f"),
    "speed-up": lambda r: "" if r.speedup is None else f"{r.speedup:.2f}x",
    "eager img/s": lambda r: _number(r.eager_images_per_second, ".1f"),
    "fused img/s": lambda r: _number(r.images_per_second, ".1f"),
    "eager MB": lambda r: _number(r.eager_memory, ".0f", 1e6),
    "fused MB": lambda r: _number(r.fused_memory, ".0f", 1e6),
}
"""Of the table: title and text of a row."""

_SORT: dict[str, Callable[[Row], Any]] = {
    "params": lambda r: r.parameters,
    "macs": lambda r: r.macs,
    "top1": lambda r: -(r.top1 or 0),
    "latency": lambda r: r.fused_ms or 0,
    "speedup": lambda r: -(r.speedup or 0),
}
SORT_KEYS = tuple(_SORT)


def ordered(rows: Sequence[Row], key: str | None) -> list[Row]:
    """By one of ``SORT_KEYS``, best or smallest first; None keeps the order."""
    return list(rows) if key is None else sorted(rows, key=_SORT[key])


def table(rows: Sequence[Row], timed: bool = True) -> str:
    """Aligned text, one line per row; without ``timed`` the columns of costs only."""
    names = list(COLUMNS)[: None if timed else 7]
    return grid([names, *([COLUMNS[n](row) for n in names] for row in rows)])


def grid(lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first one left-aligned, a rule under the first line."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    out = []
    for line in lines:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        out.append("  ".join(cells).rstrip())
    out.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(out)


def conditions(settings: Settings) -> dict[str, str]:
    """Where and how a comparison was measured."""
    on_gpu = settings.device.startswith("cuda")
    processor = torch.cuda.get_device_name() if on_gpu else _machine.processors()[0]
    return {
        "machine": processor if on_gpu else f"{processor}, {torch.get_num_threads()} threads",
        "torch": str(torch.__version__),
        "dtype": str(settings.dtype).removeprefix("torch."),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(" ", "minutes"),
        "method": "random weights; median of interleaved calls, outputs allocated; eager: the plain torch.nn modules in "
        "the faster of NCHW and channels_last; MB: peak of the first forward pass, with what it keeps",
    }


def _commit() -> str:
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def check_writable(path: str | os.PathLike[str]) -> None:
    """OSError, before anything is measured, where a file cannot be written."""
    folder = pathlib.Path(path).resolve().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK) or pathlib.Path(path).is_dir():
        raise PermissionError(f"cannot write {path}")


def records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [{**asdict(r), "speedup": r.speedup, "images_per_second": r.images_per_second} for r in rows]


def write_json(path: str | os.PathLike[str], rows: Sequence[Row], settings: Settings) -> None:
    """``{"conditions": {...}, "rows": [...]}`` with the fields of ``Row``, in their own units."""
    content = {"conditions": conditions(settings), "rows": records(rows)}
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def write_csv(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """One line per row with the fields of ``Row``, in their own units."""
    write_records(path, records(rows), [f.name for f in fields(Row)] + ["speedup", "images_per_second"])


def write_records(path: str | os.PathLike[str], rows: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """CSV; names: of the columns, every row's keys."""
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, out.getvalue().encode())
