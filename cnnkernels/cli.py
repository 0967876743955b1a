"""The command ``cnnkernels``: examines the installation, runs the benchmarks of a checkout, draws and compares networks,
detects objects in pictures, optimises models."""

from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from cnnkernels import _doctor
from cnnkernels import _export_command as exporting
from cnnkernels import draw as drawing
from cnnkernels.compare import command as comparing
from cnnkernels.detection import command as detecting
from cnnkernels.models import list_models
from cnnkernels.optimize import command as optimizing
from cnnkernels.roofline import command as roofline


def bench(arguments: Sequence[str]) -> int:
    folder = pathlib.Path(__file__).resolve().parent.parent / "benchmarks"
    if not folder.is_dir():
        print("cnnkernels bench: the benchmarks are in the source tree only; run ./dev bench there", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "pytest", str(folder), "--benchmark-only", *arguments]
    return subprocess.run(command, cwd=folder.parent).returncode


def draw(options: argparse.Namespace) -> int:
    if options.list:
        print("networks:", ", ".join(list_models(task="classification")))
        print("blocks:", ", ".join(sorted(drawing.BLOCKS)))
        return 0
    if options.name is None:
        print("cnnkernels draw: which network or block?  --list names them", file=sys.stderr)
        return 2
    try:
        if options.output is None:
            print(drawing.as_text(drawing.network_structure(options.name, options.size)))
        else:
            print(f"wrote {drawing.draw(options.name, options.output, options.block, options.size)}")
    except (ValueError, ImportError, RuntimeError, OSError) as e:
        print(f"cnnkernels draw: {e}", file=sys.stderr)
        return 1
    return 0


def _add_draw(commands: Any) -> None:
    parser = commands.add_parser("draw", help="a structure diagram of a network or of a block")
    parser.add_argument("name", nargs="?", help="a network, or a block such as inverted_residual; see --list")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help=".svg, .png, .pdf or .dot; without it, a network as text"
    )
    parser.add_argument("--block", metavar="MODULE", help="draw the inside of one module of the network: features.3")
    parser.add_argument("--size", type=int, help="height and width of the images (default: the published one)")
    parser.add_argument("--list", action="store_true", help="what can be drawn")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="cnnkernels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "doctor", help="what is installed and in use, a self-test per op and backend, a block for bug reports"
    )
    commands.add_parser(
        "bench",
        help="pytest benchmarks/ --benchmark-only, which gets further arguments; --roofline [NETWORK]: layer by layer",
        add_help=False,
    )
    _add_draw(commands)
    comparing.add_arguments(commands.add_parser("compare", help="networks side by side: cost, speed, memory, accuracy"))
    detecting.add_arguments(commands.add_parser("detect", help="objects in pictures: boxes drawn, and as JSON"))
    optimizing.add_arguments(
        commands.add_parser("optimize", help="your model on the fused ops: what is swapped, what it gains")
    )
    exporting.add_arguments(commands.add_parser("export", help="a network as ONNX file or AOTInductor package"))
    options, rest = parser.parse_known_args(arguments)
    if options.command == "bench":
        return roofline.run(rest) if "--roofline" in rest else bench(rest)
    if rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if options.command == "compare":
        return comparing.run(options)
    if options.command == "detect":
        return detecting.run(options)
    if options.command == "optimize":
        return optimizing.run(options)
    if options.command == "export":
        return exporting.run(options)
    return draw(options) if options.command == "draw" else _doctor.run()


if __name__ == "__main__":
    sys.exit(main())
