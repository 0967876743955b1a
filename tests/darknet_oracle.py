"""A small Darknet: computes the sections of ``tests.darknet_cfg`` one after the other, with numbers of a weight file.

Nothing of cnnkernels is used: convolutions take their numbers in the order of the sections, as Darknet's parser does.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.darknet_cfg import Configuration

ACTIVATIONS = {"leaky": lambda x: F.leaky_relu(x, 0.1), "mish": F.mish, "logistic": torch.sigmoid}


class FileNumbers:
    """The next numbers of a file, whose header has five int32, or four in versions below 0.2."""

    def __init__(self, path: pathlib.Path) -> None:
        content = path.read_bytes()
        major, minor = np.frombuffer(content, "<i4", 2)
        self.numbers = torch.from_numpy(
            np.frombuffer(content, "<f4", offset=20 if 10 * major + minor >= 2 else 16).copy()
        )
        self.at = 0

    def take(self, *shape: int) -> Tensor:
        n = int(np.prod(shape))
        self.at += n
        return self.numbers[self.at - n : self.at].view(shape)

    def plain(self, x: Tensor, filters: int) -> tuple[Tensor, Tensor]:
        """bias, weight of a 1x1 convolution."""
        bias = self.take(filters)
        return bias, self.take(filters, x.shape[1], 1, 1)

    def normalised(self, x: Tensor, filters: int, size: int, stride: int) -> tuple[Tensor, ...]:
        """beta, gamma, mean, variance, weight."""
        norm = tuple(self.take(filters) for _ in range(4))
        return *norm, self.take(filters, x.shape[1], size, size)


class DrawnNumbers:
    """Random ones, kept in the order of the file; statistics near those of the images that go through the network.

    gamma is below 0.5, as in trained networks: around 1, a hundred random layers amplify rounding errors.
    """

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.kept: list[Tensor] = []

    def uniform(self, n: int, low: float, high: float) -> Tensor:
        return torch.rand(n, generator=self.generator) * (high - low) + low

    def weight(self, *shape: int, gain: float = 2.0) -> Tensor:
        return torch.randn(shape, generator=self.generator) * (gain / np.prod(shape[1:])) ** 0.5

    def plain(self, x: Tensor, filters: int) -> tuple[Tensor, Tensor]:
        bias, weight = self.uniform(filters, -1, 1), self.weight(filters, x.shape[1], 1, 1, gain=1.0)
        self.kept += [bias, weight]
        return bias, weight

    def normalised(self, x: Tensor, filters: int, size: int, stride: int) -> tuple[Tensor, ...]:
        weight = self.weight(filters, x.shape[1], size, size)
        var, mean = torch.var_mean(F.conv2d(x, weight, None, stride, size // 2), (0, 2, 3))
        mean, var = mean + 0.1 * self.uniform(filters, -1, 1) * var.sqrt(), var * self.uniform(filters, 0.9, 1.1)
        numbers = (self.uniform(filters, -0.2, 0.2), self.uniform(filters, 0.1, 0.5), mean, var + 1e-4, weight)
        self.kept += numbers
        return numbers

    def write(self, path: pathlib.Path, version: tuple[int, int, int] = (0, 2, 5)) -> pathlib.Path:
        seen = np.array([32013312], "<i8" if version >= (0, 2, 0) else "<i4")
        numbers = torch.cat([t.flatten() for t in self.kept]).numpy().astype("<f4")
        path.write_bytes(np.array(version, "<i4").tobytes() + seen.tobytes() + numbers.tobytes())
        return path


def _numbered(words: str) -> Iterator[tuple[int, str, str]]:
    """(number of the section, word, activation)."""
    number, act = 0, ""
    for word in words.split():
        if word.startswith("@"):
            act = word[1:]
        else:
            yield number, word, act
            number += 1


def _max_pool(x: Tensor, size: int, stride: int) -> Tensor:
    """Darknet pads by size - 1 in all, less than half of it at the top and the left, and never takes the padding."""
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    return F.max_pool2d(F.pad(x, (before, after, before, after), value=-torch.inf), size, stride)


def _route(word: str, number: int, maps: list[Tensor]) -> Tensor:
    layers = [int(n) for n in word.removeprefix("route").split(",")]
    return torch.cat([maps[n if n >= 0 else number + n] for n in layers], 1)


def _boxes(x: Tensor, cfg: Configuration, mask: list[int], scale: float, image: torch.Size) -> Tensor:
    """[yolo]: every candidate's centre and size, both relative to the image as Darknet has them, then in its pixels."""
    n, channels, h, w = x.shape
    x = x.view(n, len(mask), channels // len(mask), h, w)
    if not cfg.new_coords:
        x = torch.cat((x[:, :, :2].sigmoid(), x[:, :, 2:4], x[:, :, 4:].sigmoid()), 2)
    i, j = torch.arange(w), torch.arange(h)[:, None]
    centre_x = (i + x[:, :, 0] * scale - 0.5 * (scale - 1)) / w
    centre_y = (j + x[:, :, 1] * scale - 0.5 * (scale - 1)) / h
    anchors = torch.tensor(cfg.anchors, dtype=x.dtype).view(-1, 2)[mask][None, :, :, None, None]
    size = x[:, :, 2:4].square() * 4 * anchors if cfg.new_coords else x[:, :, 2:4].exp() * anchors
    boxes = torch.stack((centre_x * image[3], centre_y * image[2]), 2)
    return torch.cat((boxes, size, x[:, :, 4:]), 2).permute(0, 1, 3, 4, 2).flatten(1, 3)


def run(
    cfg: Configuration, image: Tensor, classes: int, numbers: FileNumbers | DrawnNumbers
) -> tuple[Tensor, list[Tensor]]:
    """(predictions [N, candidates, 5 + classes] of all [yolo] sections, what goes into each of them)."""
    maps: list[Tensor] = []
    predictions, raw = [], []
    for number, word, act in _numbered(cfg.words):
        x = maps[-1] if maps else image
        if match := re.fullmatch(r"(\d+)x(\d)(?:/(\d))?", word):
            filters, size, stride = int(match[1]), int(match[2]), int(match[3] or 1)
            beta, gamma, mean, var, weight = numbers.normalised(x, filters, size, stride)
            x = F.conv2d(x, weight, None, stride, size // 2)
            x = ACTIVATIONS[act](F.batch_norm(x, mean, var, gamma, beta, eps=1e-5))
        elif word.startswith("out"):
            bias, weight = numbers.plain(x, 3 * (5 + classes))
            x = F.conv2d(x, weight, bias)
            raw.append(x)
            x = torch.sigmoid(x) if word == "out@logistic" else x
        elif word.startswith("max"):
            size, stride = map(int, word.removeprefix("max").split("/"))
            x = _max_pool(x, size, stride)
        elif word == "up":
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        elif word.startswith("add"):
            x = x + maps[number + int(word.removeprefix("add"))]
        elif word == "half":
            x = x[:, x.shape[1] // 2 :]
        elif word.startswith("route"):
            x = _route(word, number, maps)
        else:
            mask = [int(n) for n in word.removeprefix("yolo").split(",")]
            predictions.append(_boxes(x, cfg, mask, cfg.scale_x_y[len(predictions)], image.shape))
        maps.append(x)
    return torch.cat(predictions, 1), raw
