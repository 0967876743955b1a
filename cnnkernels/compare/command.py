"""The command ``cnnkernels compare``."""

from __future__ import annotations

import argparse
import json
import sys

import torch

from cnnkernels._files import write_whole
from cnnkernels._progress import progress
from cnnkernels.compare import output, plot, presets
from cnnkernels.compare.measure import Row, Settings, compare, select

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help='names or patterns: "mobilenet*"')
    parser.add_argument("--preset", choices=[*presets.NETWORKS, *presets.TABLES], help="a comparison of the survey")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="batch sizes (default 1)")
    parser.add_argument("--size", type=int, help="height and width of the images (default: each network's own)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--rounds", type=int, default=30, help="timed calls of each contender at most (default 30)")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each network and batch size (default 3)")
    parser.add_argument("--no-time", action="store_true", help="costs only, at once")
    parser.add_argument("--sort", choices=output.SORT_KEYS, help="order of the table")
    parser.add_argument("--plot", metavar="FILE", help="accuracy over costs, or a preset's blocks: .png, .svg, .pdf")
    parser.add_argument("--json", metavar="FILE", help="everything, with conditions")
    parser.add_argument("--csv", metavar="FILE", help="the rows")


def run(options: argparse.Namespace) -> int:
    """0; 1 for a problem with a network or a file, 2 for a request that makes no sense, 130 if it was interrupted."""
    try:
        names = _names(options)
        for path in (options.plot, options.json, options.csv):
            if path is not None:
                output.check_writable(path)
        if min([*options.batch, options.rounds, options.size or 1, options.threads or 1]) < 1:
            raise ValueError("--batch, --size, --rounds and --threads must be at least 1")
        if options.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"--device {options.device}: torch sees no GPU here")
        if options.plot is not None:
            plot.check(options.plot)
    except (ValueError, OSError, ImportError) as e:
        print(f"cnnkernels compare: {e}", file=sys.stderr)
        return 2
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    settings = Settings(options.device, DTYPES[options.dtype], options.rounds, options.seconds, not options.no_time)
    if options.preset in presets.TABLES:
        return _tables(options, settings)
    return _networks(options, names, settings)


def _names(options: argparse.Namespace) -> list[str]:
    if options.preset in presets.TABLES:
        if options.networks:
            raise ValueError(f"--preset {options.preset} measures blocks: it takes no networks")
        if options.plot and options.no_time:
            raise ValueError(f"--preset {options.preset} plots times: not with --no-time")
        if options.size or len(options.batch) > 1:
            raise ValueError(f"--preset {options.preset} has sizes of its own: it takes one --batch and no --size")
        return []
    patterns = [*options.networks, *presets.NETWORKS.get(options.preset, ())]
    if not patterns:
        raise ValueError('which networks?  For example: cnnkernels compare "mobilenet*" resnet50, or --preset')
    return select(patterns)


def _tables(options: argparse.Namespace, settings: Settings) -> int:
    try:
        tables = presets.TABLES[options.preset](settings, batch=options.batch[0])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print("\n".join(t.text() for t in tables))
    _print_conditions(settings)
    if options.json is not None:
        content = {"conditions": output.conditions(settings), "tables": presets.records(tables)}
        write_whole(options.json, (json.dumps(content, indent=1) + "\n").encode())
    if options.csv is not None:
        rows = [{"table": t["title"], **r} for t in presets.records(tables) for r in t["rows"]]
        output.write_records(options.csv, rows, list(rows[0]))
    if options.plot is not None:
        plot.write_plot(options.plot, plot.bars(tables))
    return 0


def _networks(options: argparse.Namespace, names: list[str], settings: Settings) -> int:
    rows: list[Row] = []
    status = 0
    try:
        with progress("measuring", len(names) * len(options.batch)) as advance:
            for row in compare(names, options.batch, options.size, settings):
                rows.append(row)
                advance(row.name)
    except KeyboardInterrupt:
        status = 130
    if any(r.problem for r in rows):
        status = status or 1
    print(output.table(output.ordered(rows, options.sort), settings.time))
    _print_conditions(settings)
    if status == 130:
        print(f"interrupted after {len(rows)} of {len(names) * len(options.batch)} rows", file=sys.stderr)
    if not rows:
        return status
    if options.json is not None:
        output.write_json(options.json, rows, settings)
    if options.csv is not None:
        output.write_csv(options.csv, rows)
    if options.plot is not None:
        try:
            plot.write_plot(options.plot, plot.figure(rows))
        except ValueError as e:
            print(f"cnnkernels compare: {e}", file=sys.stderr)
            return 1
    return status


def _print_conditions(settings: Settings) -> None:
    facts = output.conditions(settings)
    if not settings.time:
        facts = {k: facts[k] for k in ("commit", "date")}
    print("\n" + "; ".join(f"{k}: {v}" for k, v in facts.items()))
