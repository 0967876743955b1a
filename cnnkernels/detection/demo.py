"""Detection on photographs with the small weights that this project trained on its own scenes: ./dev demo.

    python -m cnnkernels.detection.demo [-o DIR]

The weights know eight things: five shapes, coins, cups and faces; scikit-image's wheel has photographs of the last three.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from cnnkernels._files import write_whole
from cnnkernels._timing import interleaved_medians
from cnnkernels.detection.detector import Detector
from cnnkernels.detection.drawing import draw_detections
from cnnkernels.detection.images import encode
from cnnkernels.detection.letterbox import prepare
from cnnkernels.detection.sample import Image

WEIGHTS = pathlib.Path(__file__).parent / "scenes_yolox_nano.safetensors"
PHOTOGRAPHS = {"coffee": 0.5, "astronaut": 1.0, "coins": 1.0}
"""Functions in skimage.data, and the share of a grey canvas that the photograph takes: a cup that fills the picture is
larger than any in the training, whose largest things take 42 % of it."""


def photograph(name: str) -> Image:
    """uint8 [H, W, 3].  ImportError without scikit-image."""
    try:
        import skimage.data
    except ImportError:
        raise ImportError("the demonstration's photographs are scikit-image's: pip install scikit-image") from None
    from cnnkernels.detection.detector import as_image

    image = as_image(getattr(skimage.data, name)())
    height, width = (round(n / PHOTOGRAPHS[name]) for n in image.shape[:2])
    canvas = np.full((height, width, 3), 114, np.uint8)
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def run(out: pathlib.Path, rounds: int = 20) -> dict[str, Counter[str]]:
    """Prints what is in each photograph, writes the pictures with boxes; returns names and numbers by photograph."""
    detector = Detector("yolox_nano", WEIGHTS, score_threshold=0.55)
    count = sum(p.numel() for p in detector.network.parameters())
    print(
        f"\nYOLOX-nano, {count:,} parameters, trained on synthetic scenes; input {detector.size} pixels, scores from 0.55"
    )
    out.mkdir(parents=True, exist_ok=True)
    images = {name: photograph(name) for name in PHOTOGRAPHS}
    found: dict[str, Counter[str]] = {}
    for (name, image), detections in zip(images.items(), detector(list(images.values())), strict=True):
        found[name] = Counter(detector.names[i] for i in detections.labels.tolist())
        path = out / f"{name}.jpg"
        write_whole(path, encode(draw_detections(image, detections, detector.names), ".jpg"))
        what = ", ".join(f"{n} {label}" for label, n in found[name].most_common()) or "nothing"
        print(f"  {name:<12}{what:<40}{path}")
    x = prepare(images["coffee"], detector.network.preprocessing, detector.size)[0][None]
    with torch.inference_mode():

        def plain() -> None:
            detector.network.backend = "reference"
            detector.network(x)

        def fused() -> None:
            detector.network.backend = None
            detector.network(x)

        eager, ours = (1e3 * t for t in interleaved_medians([plain, fused], rounds))
    print(f"  ms per picture (median): plain torch.nn modules {eager:.2f}, fused {ours:.2f}: {eager / ours:.2f}x")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cnnkernels.detection.demo", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("-o", "--out", default="out/demo", metavar="DIR", help="for the pictures (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="timed calls of each (default %(default)s)")
    options = parser.parse_args(arguments)
    try:
        run(pathlib.Path(options.out), options.rounds)
    except (ImportError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
