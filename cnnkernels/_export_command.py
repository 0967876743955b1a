"""The command ``cnnkernels export``: a network as an ONNX file or as an AOTInductor package; detectors with their NMS."""

from __future__ import annotations

import argparse
import sys

import torch

from cnnkernels.detection.export import Exportable, export_onnx
from cnnkernels.export import to_onnx, to_package
from cnnkernels.models import create_model
from cnnkernels.models.registry import model_entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", metavar="NETWORK", help="of this package: mobilenet_v3_large, yolox_nano")
    parser.add_argument("--onnx", metavar="FILE", help="write standard ONNX operators")
    parser.add_argument("--package", metavar="FILE.pt2", help="compile with AOTInductor; needs a C++ compiler")
    parser.add_argument("--weights", metavar="FILE", help="a checkpoint (default: random weights)")
    parser.add_argument("--classes", type=int, help="of the network (default: the published number)")
    parser.add_argument("--size", type=int, help="height and width of the images (default: the published one)")
    parser.add_argument("--score", type=float, default=0.25, help="a detector's boxes score more (default 0.25)")


def run(options: argparse.Namespace) -> int:
    """0; 1 where a file cannot be written, 2 for a request that makes no sense."""
    if options.onnx is None and options.package is None:
        print("cnnkernels export: --onnx FILE or --package FILE.pt2 says what to write", file=sys.stderr)
        return 2
    try:
        _export(options)
    except (ValueError, ImportError, RuntimeError, OSError) as error:
        print(f"cnnkernels export: {error}", file=sys.stderr)
        return 1
    return 0


def _export(options: argparse.Namespace) -> None:
    entry = model_entry(options.network)
    size = entry.image_size if options.size is None else (options.size, options.size)
    model = create_model(options.network, pretrained=options.weights or False, num_classes=options.classes).eval()
    example = torch.zeros(2, 3, *size)
    if options.onnx is not None:
        if entry.task == "detection":
            export_onnx(model, options.onnx, size, batch=None, score_threshold=options.score)
        else:
            to_onnx(model, example, options.onnx, inputs=["images"])
        print(f"wrote {options.onnx}")
    if options.package is not None:
        detector = entry.task == "detection"
        to_package(Exportable(model, score_threshold=options.score) if detector else model, example, options.package)
        print(f"wrote {options.package}")
