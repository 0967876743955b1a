"""``cnnkernels.optimize`` on every classification model of torchvision and many of timm: what it swaps, its error, its gain.

    python -m benchmarks.optimize_table OUT.json [--mode infer|train] [--only PATTERN] [--no-tune] [--threads N] [--size N]
    python -m benchmarks.optimize_table --markdown OUT.json ...      # tables for docs/optimize.md

One row a model, random weights, one image of 224 pixels (two in training) or ``--size``; goes on with a file
that is there already.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

import cnnkernels
from cnnkernels._files import write_whole
from cnnkernels.compare.measure import Settings
from cnnkernels.compare.output import conditions
from cnnkernels.optimize._measure import latencies
from cnnkernels.optimize.command import load
from tests.torchvision_oracle import torchvision

TIMM = pathlib.Path(__file__).with_name("optimize_timm_models.txt").read_text().split()
LARGE = ("gf", "_l", "_m", "_b5", "_b6", "_b7", "_large", "_base", "152", "154", "64x4d", "101_2", "19", "19_bn")
"""Ends of the names that come last, as they take long."""
SIZES = {"inception": 299, "nasnet": 331}


def names() -> list[str]:
    """Those that take a 224-pixel image in reasonable time and are no transformers."""
    package = torchvision()
    assert package is not None
    found = package.models.list_models(module=package.models)
    others = ("vit", "swin", "maxvit")
    all_names = [*(f"torchvision:{n}" for n in found if not n.startswith(others)), *(f"timm:{n}" for n in TIMM)]
    return sorted(all_names, key=lambda n: n.endswith(LARGE))


def row(name: str, mode: str, tune: bool, usual: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = load(name)
    size = next((s for prefix, s in SIZES.items() if name.partition(":")[2].startswith(prefix)), usual)
    calibrate(model, size)
    x = torch.randn(2 if mode == "train" else 1, 3, size, size)
    start = time.monotonic()
    fast, report = cnnkernels.optimize(model.train(mode == "train"), x, mode, tune=tune)
    if not tune and report.swapped:
        found = latencies(model, fast, (x,), mode == "train", rounds=7, seconds=6.0)
        report.before_ms, report.before_layout, report.after_ms = found.before, found.layout, found.after
    kinds: dict[str, int] = {}
    for entry in report.swapped:
        for kind, n in (entry.parts or {entry.kind: 1}).items():
            kinds[kind] = kinds.get(kind, 0) + n
    undone = [f"{e.name}: {e.why}" for e in report.entries if e.status == "undone"]
    facts = {
        k: getattr(report, k)
        for k in ("error", "before_ms", "before_layout", "after_ms", "before_bytes", "after_bytes")
    }
    return {
        "model": name, "mode": mode, "size": size, "tuned": tune, "swapped": kinds, "undone": undone, **facts,
        "speedup": report.speedup, "notes": report.notes, "seconds": time.monotonic() - start,
    }  # fmt: skip


def calibrate(model: nn.Module, size: int) -> None:
    """Running statistics of a batch, so that maps of a random network neither vanish nor grow."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.momentum = None
    with torch.no_grad():
        model.train()(torch.randn(2, 3, size, size))
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum


def measure(path: pathlib.Path, mode: str, only: str, tune: bool, size: int) -> None:
    done = json.loads(path.read_text()) if path.is_file() else {"conditions": {}, "rows": []}
    known = {r["model"] for r in done["rows"]}
    for name in names():
        if name in known or not fnmatch.fnmatch(name, only):
            continue
        try:
            made = row(name, mode, tune, size)
        except (RuntimeError, ValueError, MemoryError) as error:  # a model that does not take such images
            made = {"model": name, "mode": mode, "problem": f"{type(error).__name__}: {error}".split("\n")[0]}
        done["rows"].append(made)
        done["conditions"] = conditions(Settings())
        write_whole(path, (json.dumps(done, indent=1) + "\n").encode())
        print(
            name,
            made.get("problem") or f"{_or_nan(made['speedup']):.2f}x, error {_or_nan(made['error']):.1e}",
            flush=True,
        )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def markdown(paths: list[pathlib.Path]) -> Iterator[str]:
    """A table for each file."""
    for path in paths:
        content = json.loads(path.read_text())
        rows = [r for r in content["rows"] if "problem" not in r]
        timed = [r["speedup"] for r in rows if r["swapped"] and r["speedup"]]
        mode = rows[0]["mode"]
        yield f"### {'Evaluation' if mode == 'infer' else 'Training'}: {len(rows)} models"
        yield ""
        if timed:
            mean = math.exp(sum(map(math.log, timed)) / len(timed))
            yield f"Geometric mean of the {len(timed)} that gain: {mean:.2f}x; {len(rows) - len(timed)} run as they were."
            yield ""
        yield "| model | swapped | eager, ms | optimised, ms | | error |"
        yield "| --- | --- | --: | --: | --: | --: |"
        for r in rows:
            kinds = ", ".join(f"{n} {k}" for k, n in r["swapped"].items()) or "nothing to gain"
            cells = [""] * 4
            if r["swapped"]:
                before, after, gain, error = (_or_nan(r[k]) for k in ("before_ms", "after_ms", "speedup", "error"))
                cells = [f"{before:.1f}", f"{after:.1f}", f"{gain:.2f}x", f"{error:.0e}"]
            yield f"| {r['model']} | {kinds} | {' | '.join(cells)} |"
        yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--mode", choices=("infer", "train"), default="infer")
    parser.add_argument("--only", default="*")
    parser.add_argument("--no-tune", action="store_true", help="nothing is undone for being slower; the whole is timed")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--size", type=int, default=224, help="of the images, but for networks that need theirs")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    if options.markdown:
        print("\n".join(markdown(options.files)))
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    measure(options.files[0], options.mode, options.only, not options.no_tune, options.size)


if __name__ == "__main__":
    main()
