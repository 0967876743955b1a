"""A result as text and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from cnnkernels._files import write_whole
from cnnkernels.compare import output
from cnnkernels.compare.measure import Settings
from cnnkernels.roofline.measure import Result, Row

_METHOD = (
    "random weights, float32; calls in a row on the input that the layer has in the network, the fastest of several whiles; "
    "bytes: input, parameters and result, once; ceilings: multiply-adds on registers, and copies of as many bytes, the best "
    "of many"
)

COLUMNS: dict[str, Callable[[Row], str]] = {
    "layer": lambda r: r.layer,
    "result": lambda r: "x".join(map(str, r.shape)),
    "MFLOP": lambda r: f"{r.flops / 1e6:.2f}",
    "kB": lambda r: f"{r.bytes / 1e3:.0f}",
    "FLOP/B": lambda r: f"{r.intensity:.1f}",
    "us": lambda r: f"{1e6 * r.seconds:.1f}",
    "GFLOP/s": lambda r: f"{r.flops / r.seconds / 1e9:.1f}",
    "GB/s": lambda r: f"{r.bytes / r.seconds / 1e9:.1f}",
    "bound": lambda r: r.bound,
    "of roof": lambda r: f"{100 * r.share:.0f} %",
}
"""Of the table: title and text of a row."""


def text(result: Result) -> str:
    """The ceilings, then a table per contender."""
    c = result.ceilings
    parts = [
        f"{result.network}, {result.batch} x 3 x {result.size} x {result.size}\n"
        f"ceilings: {c.flops / 1e9:.0f} GFLOP/s; copies {c.cache_bandwidth / 1e9:.0f} GB/s from caches, "
        f"{c.memory_bandwidth / 1e9:.1f} GB/s from memory"
    ]
    for contender, network_seconds in result.network_seconds.items():
        rows = [r for r in result.rows if r.contender == contender]
        table = output.grid([list(COLUMNS), *([column(r) for column in COLUMNS.values()] for r in rows)])
        parts.append(f"{contender}\n{table}\n{_sum(rows, network_seconds)}")
    return "\n\n".join(parts)


def _sum(rows: list[Row], network_seconds: float) -> str:
    layers = sum(r.seconds for r in rows)
    least = sum(max(r.compute_seconds, r.memory_seconds) for r in rows)
    flops = sum(r.flops for r in rows)
    return (
        f"layers together {1e3 * layers:.2f} ms, the network as a whole {1e3 * network_seconds:.2f} ms "
        f"({flops / network_seconds / 1e9:.1f} GFLOP/s); at the roof {1e3 * least:.2f} ms, "
        f"{100 * least / network_seconds:.0f} % of what it took"
    )


def conditions() -> dict[str, str]:
    return {**output.conditions(Settings()), "method": _METHOD}


def write_json(path: str | os.PathLike[str], result: Result) -> None:
    """``{"conditions": ..., "network": ..., "ceilings": ..., "rows": [...]}`` in seconds, bytes and FLOPs."""
    content: dict[str, Any] = {
        "conditions": conditions(),
        "network": result.network,
        "batch": result.batch,
        "size": result.size,
        "ceilings": vars(result.ceilings),
        "network_seconds": result.network_seconds,
        "rows": [{**vars(r), "bound": r.bound, "share": r.share} for r in result.rows],
    }
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
