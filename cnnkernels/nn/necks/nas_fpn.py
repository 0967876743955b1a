"""NAS-FPN: Ghiasi, Lin, Pang, Le 2019, "NAS-FPN: Learning Scalable Feature Pyramid Architecture for Object Detection",
arXiv:1904.07392, figures 4 and 6; details that the paper leaves open as in the authors' code (tensorflow/tpu).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from cnnkernels.nn.conv import ConvBNAct
from cnnkernels.nn.necks._resize import check_maps, plus_upsampled, pooled, upsampled

LEVELS = 5


class Merge(NamedTuple):
    """One merging cell.  Sources count the five inputs, P3 to P7, and then the cells."""

    level: int
    """Of the result: 0 for P3."""
    op: str
    """"sum", or "attention": the global pooling of the second source, which is the coarser one, weighs the first."""
    sources: tuple[int, int]
    leaf: int | None = None
    """An input of this level that no cell takes: it is added."""


ARCHITECTURE = (
    Merge(1, "attention", (1, 3)),
    Merge(1, "sum", (1, 5)),
    Merge(0, "sum", (0, 6)),
    Merge(1, "sum", (6, 7)),
    Merge(2, "attention", (7, 8), leaf=2),
    Merge(4, "attention", (6, 9), leaf=4),
    Merge(3, "attention", (9, 10)),
)
"""What the search found: figure 6.  The last five are the results."""


class MergingCell(nn.Module):
    """Two maps, brought to one level, merged; then ReLU, a 3x3 convolution and BatchNorm.

        sum          a + b
        attention    a * sigmoid(max of b over H and W) + b

    channels: of every map.  maps: [N, channels, H_i, W_i] of the sources; levels: theirs.
    """

    def __init__(self, merge: Merge, channels: int, **bn: Any) -> None:
        super().__init__()
        self.merge = merge
        self.act = nn.ReLU(inplace=True)
        self.conv = ConvBNAct(channels, channels, 3, act="identity", **bn)

    def forward(self, maps: Sequence[Tensor], levels: Sequence[int]) -> Tensor:
        level, op, sources, leaf = self.merge
        size = maps[level].shape[2:]
        a, b = (pooled(maps[i], level - levels[i]) for i in sources)
        if op == "attention":
            y = plus_upsampled(upsampled(a, size) * b.amax((2, 3), keepdim=True).sigmoid(), b)
        else:
            coarse, fine = (a, b) if levels[sources[0]] > levels[sources[1]] else (b, a)
            y = plus_upsampled(upsampled(fine, size), coarse)
        if leaf is not None:
            y = y + maps[leaf]
        return self.conv(self.act(y))  # type: ignore[no-any-return]


class _Pyramid(nn.Module):
    """The seven merging cells: five maps [N, channels, H_i, W_i], finest first, to five of the same shapes."""

    def __init__(self, channels: int, **bn: Any) -> None:
        super().__init__()
        self.cells = nn.ModuleList(MergingCell(merge, channels, **bn) for merge in ARCHITECTURE)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        known, levels = list(maps), list(range(LEVELS))
        for cell, merge in zip(self.cells, ARCHITECTURE, strict=True):
            known.append(cell(known, levels))
            levels.append(merge.level)
        return [x for _, x in sorted(zip(levels[-LEVELS:], known[-LEVELS:], strict=True), key=lambda pair: pair[0])]


class NASFPN(nn.Module):
    """A stack of the pyramid that the search found, over the maps P3 to P7.

    in_channels: of the backbone's maps, P3 first, at most five; a 1x1 convolution with BatchNorm brings each to
        ``channels`` where it has others.  Those that the backbone lacks are 2x2 max pooling of the finer neighbour.
    channels: of every result; ``self.channels`` lists them.  stacks: how many pyramids, 7 in the paper's best networks.
    eps, momentum: of every BatchNorm.

    maps: a list of [N, in_channels[i], H_i, W_i], H_i the half of the one before, rounded up.  Returns five maps
    [N, channels, H_i, W_i].  Raises ValueError for other channels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        stacks: int = 7,
        eps: float = 1e-4,
        momentum: float = 0.003,
    ) -> None:
        super().__init__()
        if not 1 <= len(in_channels) <= LEVELS or stacks < 1:
            raise ValueError(
                f"NASFPN: needs 1 to {LEVELS} maps and at least one pyramid, got {len(in_channels)} and {stacks}"
            )
        self._in_channels, self.channels = list(in_channels), [channels] * LEVELS
        bn: dict[str, Any] = {"eps": eps, "momentum": momentum}
        self.lateral = nn.ModuleList(
            nn.Identity() if c == channels else ConvBNAct(c, channels, 1, act="identity", **bn) for c in in_channels
        )
        self.stack = nn.ModuleList(_Pyramid(channels, **bn) for _ in range(stacks))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        check_maps("NASFPN", maps, self._in_channels)
        levels = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        while len(levels) < LEVELS:
            levels.append(pooled(levels[-1], 1))
        for pyramid in self.stack:
            levels = pyramid(levels)
        return levels
