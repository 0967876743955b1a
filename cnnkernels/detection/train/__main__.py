"""python -m cnnkernels.detection.train --data DIR --model yolox_nano --out RUN"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, Literal

import torch

from cnnkernels.detection.data.coco import CocoData
from cnnkernels.detection.train import processes
from cnnkernels.detection.train.log import draw_curves
from cnnkernels.detection.train.settings import IOU_KINDS, Settings
from cnnkernels.detection.train.trainer import Trainer


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m cnnkernels.detection.train",
        description="Trains a detector.  Called again with the same arguments after an interruption, it goes on.",
    )
    p.add_argument("--data", required=True, metavar="DIR", help="annotations/instances_{train,val}.json, train/, val/")
    p.add_argument("--out", default="runs/train", metavar="DIR", help="checkpoints, log, curves (default %(default)s)")
    p.add_argument("--skip-bad-pictures", action="store_true", help="leave them out rather than stop")
    p.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    for field in dataclasses.fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        options: dict[str, Any] = {"help": "(default %(default)s)", "default": field.default}
        if field.name == "model":
            options = {"required": True, "help": "a detector: yolox_nano, yolov4_tiny, ..."}
        elif isinstance(field.default, bool):
            options["action"] = "store_true"
        else:
            options["type"] = type(field.default)
        if field.name == "iou_kind":
            options["choices"] = IOU_KINDS
        p.add_argument(flag, **options)
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 2 for a request that makes no sense, 3 for a loss that is no number, 130 if it was interrupted."""
    options = parser().parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with processes.joined(options.device):
        status = _run(options)
        if status == 0:
            processes.wait()  # torchrun ends all processes when one fails to end well, also one that is still writing
        return status


def _run(options: argparse.Namespace) -> int:
    out = pathlib.Path(options.out)
    try:
        if options.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"--device {options.device}: torch sees no GPU here")
        settings = Settings(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Settings)})
        bad: Literal["skip", "raise"] = "skip" if options.skip_bad_pictures else "raise"
        train, val = (CocoData.split(options.data, part, bad=bad) for part in ("train", "val"))
        trainer = Trainer(settings, train, val, out)
    except (ValueError, OSError, ImportError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    if processes.is_first():
        state = f"going on after epoch {trainer.epoch}" if trainer.epoch else "from scratch"
        print(f"{settings.model}, {len(trainer.names)} classes, {len(train)} + {len(val)} pictures; {state}")
    try:
        precision = trainer.run()
    except FloatingPointError as error:
        print(error, file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on after epoch {trainer.epoch}", file=sys.stderr)
        return 130
    if not processes.is_first():
        return 0
    try:
        draw_curves(trainer.log.rows, out / "curves.png", f"{settings.model}, {settings.size} x {settings.size}")
    except ImportError as error:
        print(f"train: no curves: {error}", file=sys.stderr)
    if precision is not None:
        print(f"mAP@0.5 {precision.map50:.3f}, mAP@0.5:0.95 {precision.map:.3f}; written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
