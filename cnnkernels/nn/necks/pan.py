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

Layers = Sequence[Callable[[Tensor], Tensor]]
_BLOCK = partial(CSPLayer, shortcut=False)


def twice_as_large(x: Tensor) -> Tensor:
    """Every pixel four times: [N, C, 2 H, 2 W]."""
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


def path_aggregation(
    maps: Sequence[Tensor], reduce: Layers, top_down: Layers, downsample: Layers, bottom_up: Layers
) -> list[Tensor]:
    """The two paths over ``maps``, of which each has half the height and width of the one before it.

    With L maps there are L - 1 layers of each kind, in the order in which they are used.  From the coarsest map upwards:
    ``x = top_down(cat(twice as large(reduce(x)), map))``; then downwards: ``x = bottom_up(cat(downsample(x), r))``, where r
    is what ``reduce`` gave at that level.  Returns the first path's last x and every x of the second: one per map.
    """
    x, reduced = maps[-1], list[Tensor]()
    for narrow, merge, finer in zip(reduce, top_down, reversed(maps[:-1]), strict=True):
        reduced.append(narrow(x))
        x = merge(torch.cat((twice_as_large(reduced[-1]), finer), dim=1))
    out = [x]
    for halve, merge, kept in zip(downsample, bottom_up, reversed(reduced), strict=True):
        x = merge(torch.cat((halve(x), kept), dim=1))
        out.append(x)
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
        steps = list(pairwise(channels))
        self.reduce = nn.ModuleList(conv(wide, narrow, 1, 1) for narrow, wide in reversed(steps))
        self.top_down = nn.ModuleList(block(2 * narrow, narrow) for narrow, _ in reversed(steps))
        self.downsample = nn.ModuleList(conv(narrow, narrow, 3, 2) for narrow, _ in steps)
        self.bottom_up = nn.ModuleList(block(2 * narrow, wide) for narrow, wide in steps)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        n = len(self.reduce) + 1
        if len(maps) != n:
            raise ValueError(f"PAN: maps must be {n}, got {len(maps)}")
        return path_aggregation(maps, *map(list, (self.reduce, self.top_down, self.downsample, self.bottom_up)))
