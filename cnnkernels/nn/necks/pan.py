"""PAN: a path from coarse to fine maps, and one back.

Liu et al. 2018, "Path Aggregation Network for Instance Segmentation", arXiv:1803.01534, figure 1 (a, b), with concatenation
where the paper adds, as YOLOv4, YOLOv5 and YOLOX have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from cnnkernels.nn.csp import CBS, ConvFactory, CSPLayer
from cnnkernels.nn.necks._resize import check_maps, upsampled

Layers = Sequence[Callable[[Tensor], Tensor]]
_BLOCK = partial(CSPLayer, shortcut=False)


def top_down(maps: Sequence[Tensor], reduce: Layers, merge: Layers) -> tuple[list[Tensor], list[Tensor]]:
    """From the coarsest map to the finest: ``x = merge(cat(reduce(x) enlarged, map))``.

    maps: finest first.  With L of them there are L - 1 layers of each kind, in the order in which they are used.
    Returns what every merge gave, and every reduce, finest first.
    """
    x = maps[-1]
    merged: list[Tensor] = []  # written so for Dynamo, which calls no list[Tensor]()
    reduced: list[Tensor] = []
    for narrow, join, finer in zip(reduce, merge, reversed(maps[:-1]), strict=True):
        reduced.insert(0, narrow(x))
        x = join(torch.cat((upsampled(reduced[0], finer.shape[2:]), finer), dim=1))
        merged.insert(0, x)
    return merged, reduced


def path_aggregation(
    maps: Sequence[Tensor], reduce: Layers, merge_up: Layers, downsample: Layers, merge_down: Layers
) -> list[Tensor]:
    """``top_down`` with ``reduce`` and ``merge_up``, then back: ``x = merge_down(cat(downsample(x), reduced))``.

    maps: finest first, each half as high and wide as the one before it.  Layers in the order in which they are used.
    Returns one map per level: the finest of the first path and every x of the second.
    """
    merged, reduced = top_down(maps, reduce, merge_up)
    out = [merged[0]]
    for halve, join, kept in zip(downsample, merge_down, reduced, strict=True):
        out.append(join(torch.cat((halve(out[-1]), kept), dim=1)))
    return out


class PAN(nn.Module):
    """``path_aggregation`` with layers of its own, for maps of any number and width.

    channels: of the maps, finest first, and of the results.
    block: makes what merges two maps, called with in_channels and out_channels.
    conv: makes the 1x1 convolutions that narrow a map and the 3x3 ones of stride 2.

    maps: one [N, channels[i], H / 2^i, W / 2^i] per level, finest first; returns as many of the same shapes.
    """

    def __init__(
        self,
        channels: Sequence[int],
        block: Callable[[int, int], nn.Module] = _BLOCK,
        conv: ConvFactory = CBS,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"PAN: channels must be of at least two maps, got {list(channels)}")
        self.channels = list(channels)
        steps = list(pairwise(channels))
        self.reduce = nn.ModuleList(conv(wide, narrow, 1, 1) for narrow, wide in reversed(steps))
        self.merge_up = nn.ModuleList(block(2 * narrow, narrow) for narrow, _ in reversed(steps))
        self.downsample = nn.ModuleList(conv(narrow, narrow, 3, 2) for narrow, _ in steps)
        self.merge_down = nn.ModuleList(block(2 * narrow, wide) for narrow, wide in steps)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        check_maps("PAN", maps, self.channels)
        return path_aggregation(maps, *map(list, (self.reduce, self.merge_up, self.downsample, self.merge_down)))
