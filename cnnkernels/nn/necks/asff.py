"""ASFF: Liu, Huang, Wang 2019, "Learning Spatial Fusion for Single-Shot Object Detection", arXiv:1911.09516, section 3.

The parameter names are those of the authors' code (github.com/GOATmessi8/ASFF), where level 0 is the coarsest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.nn.max_pool import MaxPool2d
from cnnkernels.nn.necks._resize import check_maps, upsampled
from cnnkernels.nn.sequential import FusedSequential

_WEIGHT_CHANNELS = 16


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> FusedSequential:
    layers: list[tuple[str, nn.Module]] = [
        ("conv", nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)),
        ("batch_norm", nn.BatchNorm2d(out_channels)),
        ("leaky", nn.LeakyReLU(0.1)),
    ]
    return FusedSequential(OrderedDict(layers))


class ASFFLevel(nn.Module):
    """All three maps brought to one level, and at every pixel their average, weighted by a softmax; a 3x3 convolution.

    level: 0 for the coarsest, 2 for the finest.
    in_channels: of the three maps, finest first; the average has those of the level.
    out_channels: of the result.

    A coarser map is narrowed by a 1x1 convolution (``compress_level_N``; none where the channels agree), then enlarged.
    A finer one goes through a 3x3 convolution of stride 2 (``stride_level_N``), behind a 3x3 max pooling where it is two
    levels away.  All with BatchNorm and leaky ReLU (0.1).

    maps: [N, in_channels[i], H_i, W_i], H_i the half of the one before, rounded up.  Returns [N, out_channels, H, W] of
    the level's size.
    """

    def __init__(self, level: int, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        if level not in (0, 1, 2) or len(in_channels) != 3:
            raise ValueError(f"ASFF: needs a level from 0 to 2 of 3 maps, got level {level} of {len(in_channels)}")
        self.level = level
        widths = list(reversed(in_channels))
        inner = widths[level]
        for i, width in enumerate(widths):
            if i > level:
                self.add_module(f"stride_level_{i}", _conv(width, inner, 3, 2))
            elif width != inner:
                self.add_module(f"compress_level_{i}", _conv(width, inner, 1))
        self.pool = MaxPool2d(3, 2, 1)
        self.expand = _conv(inner, out_channels, 3)
        for i in range(3):
            self.add_module(f"weight_level_{i}", _conv(inner, _WEIGHT_CHANNELS, 1))
        self.weight_levels = nn.Conv2d(3 * _WEIGHT_CHANNELS, 3, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[2 - self.level].shape[2:]
        resized = [self._resized(i, x, size) for i, x in enumerate(reversed(maps))]
        seen = [self._child(f"weight_level_{i}")(x) for i, x in enumerate(resized)]
        weights = self.weight_levels(torch.cat(seen, dim=1)).softmax(dim=1)
        average = resized[0] * weights[:, :1]
        for i, x in enumerate(resized[1:], 1):
            average = average + x * weights[:, i : i + 1]
        return self.expand(average)  # type: ignore[no-any-return]

    def _resized(self, i: int, x: Tensor, size: Sequence[int]) -> Tensor:
        if i > self.level:
            x = self.pool(x) if i > self.level + 1 else x
            return self._child(f"stride_level_{i}")(x)
        compress = self._child(f"compress_level_{i}")
        return upsampled(x if compress is None else compress(x), size)

    def _child(self, name: str) -> Any:
        return self._modules.get(name)


class ASFF(nn.Module):
    """An ``ASFFLevel`` for each of three maps: children ``level_0_fusion`` (the coarsest) to ``level_2_fusion``.

    in_channels: of the maps, finest first.  out_channels: of the results, finest first; None: the same.  In YOLOv3 they
    are 256, 256, 512 and 256, 512, 1024.

    maps: a list of [N, in_channels[i], H_i, W_i], H_i the half of the one before, rounded up.  Returns a list of
    [N, out_channels[i], H_i, W_i].  Raises ValueError for other channels.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: Sequence[int] | None = None) -> None:
        super().__init__()
        self._in_channels = list(in_channels)
        self.channels = list(in_channels if out_channels is None else out_channels)
        if len(self._in_channels) != 3 or len(self.channels) != 3:
            raise ValueError(
                f"ASFF: needs channels of 3 maps, got {self._in_channels} for the maps and {self.channels} for the results"
            )
        for level in range(3):
            self.add_module(f"level_{level}_fusion", ASFFLevel(level, in_channels, self.channels[2 - level]))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        check_maps("ASFF", maps, self._in_channels)
        return [fusion(maps) for fusion in reversed(self._modules.values())]  # type: ignore[misc]
