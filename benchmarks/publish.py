"""Makes a finished run the one that README shows: `python -m benchmarks.publish [out/bench]`.

Copies summary.json and summary.txt to benchmarks/results/<machine>-<date>.*, the chart to docs/, and writes the table
between the markers in README.md.  Refuses a run of uncommitted code.
"""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- benchmark table: python -m benchmarks.publish -->", "<!-- end of benchmark table -->"


def table(summary: dict[str, Any]) -> str:
    """The README's table of ops, and the conditions under it."""
    info = summary["machine"]
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
    where = info.get("gpu") or f"{info['cpu']}, {info['threads']} cores, {info['cpu_isa'].upper()}"
    lines += [
        "",
        f"{where}; torch {info['torch']}, {info['malloc']} malloc, fp32, batch 1 and 8, both layouts; commit "
        f"{info['commit']}, {info['date']}. Ratios are PyTorch's time over ours, geometric means of medians of "
        "interleaved rounds; eager is the module composition in whichever layout is faster; every call allocates its "
        "output; Python overhead included. nms is compared with torchvision's plain IoU NMS. Every shape is in "
        "[benchmarks/results](benchmarks/results).",
    ]
    return "\n".join(lines)


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
    print(f"published as benchmarks/results/{name}.*")


if __name__ == "__main__":
    publish(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "out/bench"))
