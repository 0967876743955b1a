"""The command ``cnnkernels bench --roofline``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from cnnkernels.compare import plot as plots
from cnnkernels.compare.output import check_writable
from cnnkernels.roofline import output, plot
from cnnkernels.roofline.measure import profile


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="cnnkernels bench --roofline",
        description="A network's layers on this CPU: arithmetic, bytes, time, and which ceiling of the machine they are under.",
    )
    made.add_argument("--roofline", action="store_true", help=argparse.SUPPRESS)
    made.add_argument("network", nargs="?", default="mobilenet_v2", help="of the registry (default mobilenet_v2)")
    made.add_argument("--batch", type=int, default=1, help="images (default 1)")
    made.add_argument("--size", type=int, help="height and width of the images (default: the network's own)")
    made.add_argument("--eager", action="store_true", help="the plain torch.nn modules too")
    made.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    made.add_argument("--rounds", type=int, default=15, help="measurements of each layer (default 15)")
    made.add_argument("--png", metavar="FILE", help="the picture: .png, .svg or .pdf")
    made.add_argument("--json", metavar="FILE", help="everything, with conditions")
    return made


def run(arguments: Sequence[str]) -> int:
    """0; 1 for a network that cannot be measured, 2 for a request that makes no sense, 130 if it was interrupted."""
    options = parser().parse_args(arguments)
    try:
        if min(options.batch, options.rounds, options.size or 1, options.threads or 1) < 1:
            raise ValueError("--batch, --size, --rounds and --threads must be at least 1")
        for path in (options.png, options.json):
            if path is not None:
                check_writable(path)
        if options.png is not None:
            plots.check(options.png, "--png")
    except (ValueError, OSError, ImportError) as e:
        print(f"cnnkernels bench --roofline: {e}", file=sys.stderr)
        return 2
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    contenders = ("cnnkernels", "eager") if options.eager else ("cnnkernels",)
    try:
        result = profile(options.network, options.batch, options.size, contenders, options.rounds)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError) as e:
        print(f"cnnkernels bench --roofline: {e}", file=sys.stderr)
        return 1
    print(output.text(result))
    print("\n" + "; ".join(f"{k}: {v}" for k, v in output.conditions().items()))
    if options.json is not None:
        output.write_json(options.json, result)
    if options.png is not None:
        plots.write_plot(options.png, plot.figure(result))
    return 0
