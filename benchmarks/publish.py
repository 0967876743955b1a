"""Makes a finished run the one that README shows: `python -m benchmarks.publish [out/bench]`.

Copies summary.json and summary.txt to benchmarks/results/<machine>-<date>.*, the chart to docs/, and writes what stands
between the markers in README.md and docs/ops.md.  Refuses a run of uncommitted code.
"""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import sys
from typing import Any

from .summary import geomean

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- benchmark table: python -m benchmarks.publish -->", "<!-- end of benchmark table -->"
OF_OPS = re.compile(r"(<!-- benchmark of: (.*?) -->\n).*?(<!-- end of benchmark -->)", re.DOTALL)
CONDITIONS = re.compile(r"(<!-- benchmark conditions -->\n).*?(<!-- end of benchmark -->)", re.DOTALL)
RIVALS = {"eager": "eager_ratio", "folded by hand": "folded_ratio", "torch.compile": "compile_ratio"}


def table(summary: dict[str, Any]) -> str:
    """The README's table of ops, and the conditions under it."""
    lines = [
        "| op | rows | vs eager PyTorch | worst | best | slower in | vs torch.compile | share of copy rate |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for s in summary["ops"]:
        compiled = f"{s['compile_geomean']:.1f}x ({s['compile_shapes']} rows)" if s["compile_geomean"] else ""
        lines.append(
            f"| {s['op']} | {s['shapes']} | **{s['geomean']:.1f}x** | {s['worst']:.2f}x | {s['best']:.1f}x | "
            f"{s['losses'] or ''} | {compiled} | {s['copy_share']:.0%} |"
        )
    return "\n".join([*lines, "", conditions(summary, "benchmarks/results")])


def conditions(summary: dict[str, Any], results: str) -> str:
    """What the numbers were measured on and how; ``results``: the link to the folder with every shape."""
    info = summary["machine"]
    where = info.get("gpu") or f"{info['cpu']}, {info['threads']} cores, {info['cpu_isa'].upper()}"
    return (
        f"{where}; torch {info['torch']}, {info['malloc']} malloc, fp32, batch 1 and 8, both layouts; commit "
        f"{info['commit']}, {info['date']}. Ratios are PyTorch's time over ours, geometric means of medians of "
        "interleaved rounds; eager is the module composition in whichever layout is faster; every call allocates its "
        "output; Python overhead included. nms is compared with torchvision's plain IoU NMS. Every shape is in "
        f"[benchmarks/results]({results})."
    )


def table_of(summary: dict[str, Any], names: list[str]) -> str:
    """docs/ops.md's table of some ops: against each rival the mean, the worst and best shape, and how many are slower."""
    lines = [
        "| measured | against | rows | mean | worst | best | slower in |",
        "| --- | --- | --: | --: | --- | --- | --: |",
    ]
    for name in names:
        for rival, key in RIVALS.items():
            rows = [r for r in summary["rows"] if r["op"] == name and r[key]]
            if not rows:
                continue
            mean = geomean([r[key] for r in rows])
            worst, best = min(rows, key=lambda r: r[key]), max(rows, key=lambda r: r[key])
            ends = (f"{r[key]:.2f}x, {r['shape']} {r['layout'].removesuffix('any')}".rstrip() for r in (worst, best))
            slower = sum(r[key] < 1 for r in rows)
            lines.append(f"| {name} | {rival} | {len(rows)} | **{mean:.1f}x** | {' | '.join(ends)} | {slower or ''} |")
    return "\n".join(lines)


def fill(page: str, summary: dict[str, Any]) -> str:
    """docs/ops.md with what stands between its markers written anew."""
    page = OF_OPS.sub(lambda m: f"{m[1]}\n{table_of(summary, m[2].split(', '))}\n\n{m[3]}", page)
    return CONDITIONS.sub(lambda m: f"{m[1]}\n{conditions(summary, '../benchmarks/results')}\n\n{m[2]}", page)


def publish(source: pathlib.Path) -> None:
    summary = json.loads((source / "summary.json").read_text())
    info = summary["machine"]
    if "+changes" in info["commit"]:
        sys.exit(f"{source} was measured on uncommitted code ({info['commit']}): commit, run it again, publish then")
    slug = re.sub(r"[^a-z0-9]+", "-", (info.get("gpu") or f"{info['cpu']} {info['cpu_isa']}").lower()).strip("-")
    name = f"{slug}-{info['date'][:10]}-{info['mode']}"
    results = ROOT / "benchmarks" / "results"
    for suffix in ("json", "txt"):
        shutil.copy(source / f"summary.{suffix}", results / f"{name}.{suffix}")
    shutil.copy(source / "chart.png", ROOT / "docs" / f"bench-{info['device']}.png")
    if info["device"] == "cpu":
        readme = (ROOT / "README.md").read_text()
        head, rest = readme.split(BEGIN, 1)
        tail = rest.split(END, 1)[1]
        (ROOT / "README.md").write_text(f"{head}{BEGIN}\n{table(summary)}\n{END}{tail}")
        ops = ROOT / "docs" / "ops.md"
        ops.write_text(fill(ops.read_text(), summary))
    print(f"published as benchmarks/results/{name}.*")


if __name__ == "__main__":
    publish(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "out/bench"))
