"""The tables of choices that are shipped with the package (cnnkernels/choice/*.json).

    python -m benchmarks.choices measure [--repeat 4]      of this CPU's instruction set
    python -m benchmarks.choices derive RESULTS            of a GPU, from the summary of a run in benchmarks/results; of an
                                                           op with other kernels since then nothing is known: --without OP

A table has the shapes of the benchmarks (benchmarks/shapes.py) on which something else than the default was faster by the
margin of ``cnnkernels.choice.measure``.  Measured twice on a machine with other work to do, a shape near the margin falls on
either side of it: only what wins every repetition is kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import cnnkernels
from cnnkernels import _machine, _op
from cnnkernels.choice import key, measure, store
from cnnkernels.choice.table import Choices, Table, render

from . import bench_activation, shapes
from .rivals import FORMATS

FOLDER = pathlib.Path(store.__file__).parent


@dataclasses.dataclass(frozen=True)
class Call:
    """An op's arguments, and how the benchmarks call that row."""

    op: str
    args: tuple[Any, ...]
    row: str
    shape: str
    layout: str


def calls(batches: tuple[int, ...], dtype: torch.dtype, device: str) -> Iterator[Call]:
    """The benchmarks' forward calls and, of activations, backward; on the meta device without data."""

    def x(batch: int, channels: int, size: int, layout: str) -> Tensor:
        shape = (batch, channels, size, size)
        return torch.rand(shape, dtype=dtype, device=device).contiguous(memory_format=FORMATS[layout])

    def vector(channels: int) -> Tensor:
        return torch.rand(channels, device=device)

    for batch in batches:
        for s in shapes.ACTIVATION:
            t = x(batch, s.channels, s.size, "nchw")
            yield Call("activation", (t, "mish"), "mish forward", s.name(batch), "any")
            yield Call("activation_backward", (t, t, "mish"), "mish backward", s.name(batch), "any")
        for layout in FORMATS:
            for s in shapes.BN_ACT:
                args = (x(batch, s.channels, s.size, layout), vector(s.channels), vector(s.channels), s.act, None)
                yield Call("bn_act", args, "bn_act", f"{s.name(batch)} {s.act}", layout)
            for s in shapes.SHUFFLE:
                t = x(batch, s.channels, s.size, layout)
                yield Call("channel_shuffle", (t, s.extra), "channel_shuffle", f"{s.name(batch)} g{s.extra}", layout)
                if s.network == "shufflenet_v2":
                    half = x(batch, s.channels // 2, s.size, layout)
                    yield Call("concat_shuffle_split", (half, half, 2), "concat_shuffle_split", s.name(batch), layout)
            for d in shapes.DEPTHWISE:
                t, w = x(batch, d.channels, d.size, layout), x(d.channels, 1, d.kernel, "nchw")
                for padding in ((d.kernel // 2,), None):  # two ways to write the same
                    args = (t, w, vector(d.channels), vector(d.channels), (d.stride,), padding, (1,), d.act, None)
                    yield Call("dwconv_bn_act", args, "dwconv_bn_act", d.name(batch), layout)
    for act in bench_activation.OTHERS:
        for s in (shapes.ACTIVATION[1], shapes.ACTIVATION[4]):
            t = x(1, s.channels, s.size, "nchw")
            yield Call("activation", (t, act), "activation forward", f"{act} {s.name(1)}", "any")
            yield Call("activation_backward", (t, t, act), "activation backward", f"{act} {s.name(1)}", "any")


# ---- from measurements here ------------------------------------------------------------------------------------------


def measured(repeat: int) -> Table:
    """With one thread and with all in turn: a table is for an instruction set, whatever the number of threads."""
    device, threads = torch.device("cpu"), torch.get_num_threads()
    choices: Choices = {}
    for call in calls((1, 8), torch.float32, "cpu"):
        op = _op.REGISTRY[call.op]
        winners = set()
        for turn in range(repeat):
            torch.set_num_threads(threads if turn % 2 else 1)
            with torch.no_grad():
                winners.add(measure.winner(measure.seconds(op.candidates(call.args), device), "cpu"))
            if "cpu" in winners:
                break
        if len(winners) == 1 and winners != {"cpu"}:
            choices.setdefault(call.op, {})[key.text(call.args)] = winners.pop()
    source = (
        f"python -m benchmarks.choices measure --repeat {repeat}, {_machine.processors()[0]}, "
        f"PyTorch's own kernels for {torch.backends.cpu.get_cpu_capability()}, 1 and {threads} threads, "
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}: float32, the shapes where PyTorch's form won every repetition"
    )
    return Table(store.kind(device), torch.__version__, cnnkernels.__version__, source, choices)


# ---- from a GPU's results --------------------------------------------------------------------------------------------

_ROW = re.compile(
    r"(?P<op>[a-z_]+(?: forward| backward)?) (?P<backend>cuda|triton) float16 *(?P<shape>\S.*?) {2,}"
    r"(?P<layout>any|nchw|channels_last) +(?P<us>[\d.]+) us +(?P<eager>[\d.]+)x"
)


_QUEUED = 50.0  # us of GPU time, in which Python queues the next call on any backend


def derived(results: pathlib.Path, without: tuple[str, ...] = ()) -> Table:
    """cuda or triton, from medians in one layout; PyTorch's form where the benchmark timed just that: activations, forward.

    Elsewhere "eager" is the modules in whichever layout is faster, or weights folded beforehand: not what the op could run.
    Of calls shorter than ``_QUEUED`` those figures say too little: they leave out Python's time to queue them.
    """
    rows: dict[tuple[str, str, str], dict[str, float]] = {}
    for line in (results / "summary.txt").read_text().splitlines():
        match = _ROW.match(line)
        if match is not None:
            times = rows.setdefault((match["op"], match["shape"], match["layout"]), {})
            times[match["backend"]] = float(match["us"])
            if match["op"].endswith(" forward"):
                times["reference"] = float(match["us"]) * float(match["eager"])
    choices: Choices = {}
    for call in calls((1, 32, 128), torch.float16, "meta"):
        times = rows.get((call.row, call.shape, call.layout), {})
        if call.op not in without and times.get("cuda", 0) >= _QUEUED and measure.winner(times, "cuda") != "cuda":
            choices.setdefault(call.op, {})[key.text(call.args)] = measure.winner(times, "cuda")
    machine = json.loads((results / "check.json").read_text())["machine"]
    source = (
        f"python -m benchmarks.choices derive benchmarks/results/{results.name}{''.join(f' --without {op}' for op in without)} "
        f"({machine['commit']}): float16, medians of "
        f"GPU time, cuda against triton in one layout, of {_QUEUED:.0f} us and more, so that Python's time to queue a call "
        "does not matter; PyTorch's form of forward activations alone, because it was timed in the same layout there only; "
        "training ops left out, whose figures are mostly Python's time"
    )
    return Table(machine["gpu"], machine["torch"], cnnkernels.__version__, source, choices)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("measure").add_argument("--repeat", type=int, default=4)
    derive = commands.add_parser("derive")
    derive.add_argument("results", type=pathlib.Path)
    derive.add_argument("--without", action="append", default=[], metavar="OP")
    options = parser.parse_args()
    table = (
        measured(options.repeat) if options.command == "measure" else derived(options.results, tuple(options.without))
    )
    path = FOLDER / (re.sub(r"[^a-z0-9]+", "-", table.device.lower()) + ".json")
    path.write_bytes(render(table))
    print(f"{path.name}: {len(table)} choices: " + ", ".join(f"{op} {len(c)}" for op, c in table.choices.items()))


if __name__ == "__main__":
    main()
