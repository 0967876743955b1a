"""A detector beside ``tests.darknet_oracle``, both from one weight file, and its training step beside its plain modules."""

from __future__ import annotations

import copy
import pathlib
from typing import Any

import torch

import cnnkernels
from cnnkernels.models import create_model
from tests import darknet_oracle
from tests.darknet_cfg import Configuration
from tests.networks.case import images

CLASSES = 3


def written(cfg: Configuration, folder: pathlib.Path, version: tuple[int, int, int] = (0, 2, 5)) -> pathlib.Path:
    """A weight file of random numbers."""
    numbers = darknet_oracle.DrawnNumbers()
    with torch.no_grad():
        darknet_oracle.run(cfg, images(4, 128), CLASSES, numbers)
    return numbers.write(folder / "a.weights", version)


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


def assert_as_darknet(name: str, cfg: Configuration, folder: pathlib.Path, **kw: Any) -> list[Any]:
    """Logits and predictions at two sizes; every number of the file is used.  Returns what ran on our side."""
    path, runs = written(cfg, folder), []
    model = create_model(name, pretrained=path, num_classes=CLASSES, **kw).eval()
    for height, width in ((128, 96), (96, 128)):
        x, numbers = images(1, height, width), darknet_oracle.FileNumbers(path)
        with torch.no_grad():
            expected, of_levels = darknet_oracle.run(cfg, x, CLASSES, numbers)
            assert numbers.at == len(numbers.numbers)
            with cnnkernels.record_backends() as recorded:
                raw, predictions = model.raw(x), model(x)
            runs += recorded
            model.backend = "reference"
            plain = model(x)
            model.backend = None
        assert [x.shape[2] // level.shape[2] for level in raw] == list(model.strides)
        for level, y in zip(raw, of_levels, strict=True):
            n, _, h, w = y.shape
            close(level, y.view(n, 3, 5 + CLASSES, h, w).permute(0, 1, 3, 4, 2), 1e-4)
        for y in (predictions, plain):
            close(y[..., :2], expected[..., :2], 1e-4)
            close(y[..., 2:4], expected[..., 2:4], 1e-4)
            close(y[..., 4:], expected[..., 4:], 1e-4)
    return runs


def assert_same_training_step(model: Any, x: torch.Tensor) -> list[Any]:
    """Logits, gradients and running statistics, fused and from the plain modules, in float64.  Returns what ran."""
    fused, plain = model.double().train(), copy.deepcopy(model).double().train()
    plain.backend = "reference"
    with cnnkernels.record_backends() as runs:
        sides = [side(x.double()) for side in (fused, plain)]
        for levels in sides:
            sum(level.sin().sum() for level in levels).backward()
    for a, b in zip(*sides, strict=True):
        close(a, b, 1e-9)
    for (name, p), q in zip(fused.named_parameters(), plain.parameters(), strict=True):
        assert p.grad is not None and p.grad.abs().max() > 0, name
        close(p.grad, q.grad, 1e-7)
    for a, b in zip(fused.buffers(), plain.buffers(), strict=True):
        close(a.double(), b.double(), 1e-9)
    return [r for r in runs if r.backend != "reference"]
