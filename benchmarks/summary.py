"""The table at the end of a benchmark run, and its JSON."""

from __future__ import annotations

import json
import math
import os
import pathlib
import platform
import subprocess
import time
from typing import Any

import torch

from . import chart
from .arena import DEVICE, FULL, Group, median

Row = dict[str, Any]


def rows_of(groups: list[Group]) -> list[Row]:
    """One row per contender of ours: its median, ratios to the rivals, bandwidth and share of the copy rate."""
    rows = []
    for g in groups:
        med = {name: median(t) for name, t in g.times.items()}
        eager = {n: t for n, t in med.items() if n.startswith("eager")}
        best = min(eager, key=eager.__getitem__)
        for name in (n for n in med if n.startswith("ours")):
            mine = med[name]
            rows.append(
                {
                    "op": g.op,
                    "shape": g.shape,
                    "dtype": str(g.dtype).removeprefix("torch."),
                    "layout": g.layout,
                    "backend": name.removeprefix("ours "),
                    "us": mine * 1e6,
                    "eager": best,
                    "eager_ratio": eager[best] / mine,
                    "folded_ratio": med["folded by hand"] / mine if "folded by hand" in med else None,
                    "compile_ratio": med["compile"] / mine if "compile" in med else None,
                    "gb_per_s": g.bytes / mine / 1e9,
                    "copy_share": med["copy"] / mine,
                    "medians_us": {n: t * 1e6 for n, t in med.items()},
                    **({"host_us": {n: t * 1e6 for n, t in g.host.items()}} if g.host else {}),
                }
            )
    return rows


def geomean(values: list[float]) -> float | None:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def by_op(rows: list[Row]) -> list[Row]:
    """One row per op, backend and dtype."""
    out = []
    for key in dict.fromkeys((r["op"], r["backend"], r["dtype"]) for r in rows):
        mine = [r for r in rows if (r["op"], r["backend"], r["dtype"]) == key]
        ratios = [r["eager_ratio"] for r in mine]
        compiled = [r["compile_ratio"] for r in mine if r["compile_ratio"]]
        worst = min(mine, key=lambda r: r["eager_ratio"])
        out.append(
            {
                "op": key[0],
                "backend": key[1],
                "dtype": key[2],
                "shapes": len(mine),
                "geomean": geomean(ratios),
                "worst": min(ratios),
                "worst_shape": f"{worst['shape']} {worst['layout']}",
                "best": max(ratios),
                "losses": sum(r < 1 for r in ratios),
                "compile_geomean": geomean(compiled),
                "compile_shapes": len(compiled),
                "copy_share": geomean([r["copy_share"] for r in mine]),
            }
        )
    return out


def machine() -> Row:
    """What the numbers depend on."""

    def run(*command: str) -> str:
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""

    lscpu = dict(line.split(":", 1) for line in run("lscpu").splitlines() if ":" in line)
    root = str(pathlib.Path(__file__).resolve().parent.parent)
    changed = "+changes" if run("git", "-C", root, "status", "--porcelain") else ""
    info: Row = {
        "device": DEVICE,
        "cpu": lscpu.get("Model name", platform.processor()).strip(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": run("git", "-C", root, "rev-parse", "--short", "HEAD") + changed,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "malloc": "tuned" if any(k.startswith("MALLOC_") or k == "LD_PRELOAD" for k in os.environ) else "default",
        "mode": "full" if FULL else "quick",
    }
    try:
        from cnnkernels import _C

        info["cpu_isa"] = _C.cpu_isa()
    except ImportError:
        info["cpu_isa"] = "extension not built"
    if DEVICE == "cuda":
        query = "clocks.sm,clocks.mem,power.draw,temperature.gpu"
        info["gpu"] = torch.cuda.get_device_name()
        info["gpu_state"] = run("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")
    return info


def label(row: Row) -> str:
    """The op, with backend and dtype where they are not the CPU's fp32."""
    backend = "" if row["backend"] == "cpu" else f" {row['backend']}"
    dtype = "" if row["dtype"] == "float32" else f" {row['dtype']}"
    return f"{row['op']}{backend}{dtype}"


RIVALS = {"folded by hand": "folded", "compile": "compile", "compile freezing": "freezing", "onnxruntime": "onnxrt"}
"""Contenders beside eager and ours, and the columns for them."""


def _ratio(value: float | None) -> str:
    return f"{value:.2f}x" if value else "-"


def text(rows: list[Row], info: Row) -> str:
    where = info.get("gpu") or f"{info['cpu']}, {info['threads']} threads, {info['cpu_isa']}"
    rivals = {name: column for name, column in RIVALS.items() if any(name in r["medians_us"] for r in rows)}
    lines = [
        "",
        f"cnnkernels {info['mode']} benchmark on {where}; torch {info['torch']}, {info['malloc']} malloc, "
        f"commit {info['commit']}",
        "Ratios: their time / ours, from medians of interleaved rounds; every call allocates its output.",
        "eager: the modules in whichever layout is faster; freezing: torch.compile with freezing; of copy: a copy of the "
        "same bytes / ours.",
        "",
        f"{'op':<28}{'shape':<44}{'layout':<14}{'ours':>11}{'eager':>8}"
        + "".join(f"{column:>9}" for column in rivals.values())
        + f"{'GB/s':>7}{'of copy':>8}",
    ]
    for r in rows:
        times = r["medians_us"]
        others = "".join(f"{_ratio(times[n] / r['us'] if n in times else None):>9}" for n in rivals)
        lines.append(
            f"{label(r):<28}{r['shape']:<44}{r['layout']:<14}{r['us']:>8.1f} us{_ratio(r['eager_ratio']):>8}"
            f"{others}{r['gb_per_s']:>7.1f}{r['copy_share']:>8.0%}"
        )
    lines += [
        "",
        f"{'op':<28}{'rows':>5}{'vs eager':>10}{'worst':>8}{'best':>8}{'losses':>8}{'vs compile':>14}{'of copy':>9}"
        "   worst case",
    ]
    for s in by_op(rows):
        compiled = f"{_ratio(s['compile_geomean'])} ({s['compile_shapes']})" if s["compile_shapes"] else "-"
        lines.append(
            f"{label(s):<28}{s['shapes']:>5}{_ratio(s['geomean']):>10}{_ratio(s['worst']):>8}{_ratio(s['best']):>8}"
            f"{s['losses']:>8}{compiled:>14}{s['copy_share']:>9.0%}   {s['worst_shape']}"
        )
    return "\n".join(lines)


def write(groups: list[Group], folder: pathlib.Path) -> str:
    """Writes summary.json, summary.txt and chart.png into ``folder`` and returns the text."""
    rows, info = rows_of(groups), machine()
    folder.mkdir(parents=True, exist_ok=True)
    table = text(rows, info)
    (folder / "summary.json").write_text(
        json.dumps({"machine": info, "ops": by_op(rows), "rows": rows}, indent=1) + "\n"
    )
    (folder / "summary.txt").write_text(table.lstrip("\n") + "\n")
    drawn = chart.draw(rows, by_op(rows), info, folder / "chart.png")
    also = ", chart.png" if drawn else " (no chart: pip install matplotlib)"
    return f"{table}\n\nwritten: {folder}/summary.json, summary.txt{also}"
