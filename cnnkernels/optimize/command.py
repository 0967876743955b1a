"""The command ``cnnkernels optimize``: somebody's model, on the fused ops, as a report."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import pathlib
import sys
from typing import Any

import torch
from torch import nn

from cnnkernels._files import write_whole
from cnnkernels.compare.output import check_writable
from cnnkernels.compare.plot import check as check_plot
from cnnkernels.models import create_model
from cnnkernels.optimize.api import MODES, optimize

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="torchvision:NAME, timm:NAME, cnnkernels:NAME, or FILE.py:FUNCTION, which is called without arguments and returns a "
        "model (the file is run)",
    )
    parser.add_argument("--mode", choices=MODES, default="infer")
    parser.add_argument("--batch", type=int, default=1, help="(default 1)")
    parser.add_argument("--size", type=int, default=224, help="height and width of the images (default 224)")
    parser.add_argument("--channels", type=int, default=3, help="of the images (default 3)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--cuda-graph", action="store_true", help="calls replay a CUDA graph (on a GPU)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and images (default 0)")
    parser.add_argument("--plot", metavar="FILE", help="times of the regions: .png, .svg, .pdf")
    parser.add_argument("--json", metavar="FILE", help="the whole report")


def run(options: argparse.Namespace) -> int:
    """0; 1 where the model does not come or does not run, 2 for a request that makes no sense."""
    try:
        if min(options.batch, options.size, options.channels, options.threads or 1) < 1:
            raise ValueError("--batch, --size, --channels and --threads must be at least 1")
        if options.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"--device {options.device}: torch sees no GPU here")
        if options.cuda_graph and (options.mode != "infer" or not options.device.startswith("cuda")):
            raise ValueError("--cuda-graph is for --mode infer and --device cuda")
        if options.plot is not None:
            check_plot(options.plot)
        for path in (options.plot, options.json):
            if path is not None:
                check_writable(path)
    except (ValueError, OSError, ImportError) as error:
        print(f"cnnkernels optimize: {error}", file=sys.stderr)
        return 2
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    try:
        dtype = DTYPES[options.dtype]
        model = load(options.model).to(options.device, dtype)
        x = torch.randn(options.batch, options.channels, options.size, options.size).to(options.device, dtype)
        _, report = optimize(model.train(options.mode == "train"), x, options.mode, cuda_graph=options.cuda_graph)
    except (ValueError, TypeError, RuntimeError, ImportError, OSError) as error:
        print(f"cnnkernels optimize: {options.model}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(report)
    if options.json is not None:
        write_whole(options.json, (json.dumps(report.as_dict(), indent=1) + "\n").encode())
    if options.plot is not None:
        report.plot(options.plot)
    return 0


def load(name: str) -> nn.Module:
    """A model with random weights by the name that the command takes."""
    source, colon, rest = name.rpartition(":")
    if not colon or not source or not rest:
        raise ValueError("the model must be torchvision:NAME, timm:NAME, cnnkernels:NAME or FILE.py:FUNCTION")
    if source == "torchvision":
        models: Any = importlib.import_module("torchvision.models")
        quiet = {"init_weights": False} if rest in ("googlenet", "inception_v3") else {}  # they take minutes to draw
        model = models.get_model(rest, weights=None, **quiet)
    elif source == "timm":
        timm: Any = importlib.import_module("timm")
        model = timm.create_model(rest)
    elif source == "cnnkernels":
        model = create_model(rest)
    else:
        model = _from_file(pathlib.Path(source), rest)
    if not isinstance(model, nn.Module):
        raise TypeError(f"it must be a torch.nn.Module, got {type(model).__name__}")
    return model


def _from_file(path: pathlib.Path, function: str) -> Any:
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"{path} is no Python file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # classes in it can then be copied and pickled
    spec.loader.exec_module(module)
    made = getattr(module, function, None)
    if not callable(made):
        raise ValueError(f"{path} has no function {function}")
    return made()
