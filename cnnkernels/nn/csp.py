"""Cross stage partial layers as YOLOv5 and YOLOX have them: half of the channels goes past the blocks.

Wang et al. 2019, "CSPNet", arXiv:1911.11929, figure 3 (b), without a transition of its own behind the blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from cnnkernels.nn.conv import ConvBNAct
from cnnkernels.nn.sequential import plus

ConvFactory = Callable[..., nn.Module]
"""Makes a convolution with BatchNorm and activation: called with in_channels, out_channels, kernel_size, stride."""

CBS = partial(ConvBNAct, act="silu")
"""Convolution, BatchNorm, SiLU."""


class Bottleneck(nn.Module):
    """A 1x1 convolution to ``expansion * out_channels`` channels, a 3x3 one behind it, and x added where shapes allow.

    shortcut: False never adds x.
    conv: makes the convolutions; conv3x3: makes the second one (None: ``conv`` does).
    prefix: of the children's names: ``conv1``, ``conv2``.

    x: [N, in_channels, H, W], returns [N, out_channels, H, W].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        shortcut: bool = True,
        expansion: float = 0.5,
        conv: ConvFactory = CBS,
        conv3x3: ConvFactory | None = None,
        prefix: str = "conv",
    ) -> None:
        super().__init__()
        hidden = int(out_channels * expansion)
        self._names = tuple(f"{prefix}{i}" for i in (1, 2))
        self.add_module(self._names[0], conv(in_channels, hidden, 1, 1))
        self.add_module(self._names[1], (conv3x3 or conv)(hidden, out_channels, 3, 1))
        self.use_add = shortcut and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.get_submodule(name) for name in self._names)
        return plus(second, first(x), x) if self.use_add else second(first(x))


class CSPLayer(nn.Module):
    """``conv3(cat(m(conv1(x)), conv2(x)))``: ``m`` is a chain of ``depth`` bottlenecks, the convolutions are 1x1.

    expansion: width of both halves as a share of out_channels; the bottlenecks keep it.
    shortcut, conv, conv3x3, prefix: as for ``Bottleneck``.

    x: [N, in_channels, H, W], returns [N, out_channels, H, W].  YOLOX's keys (``conv1.conv.weight``, ``m.0.conv2.bn.bias``).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int = 1,
        shortcut: bool = True,
        expansion: float = 0.5,
        conv: ConvFactory = CBS,
        conv3x3: ConvFactory | None = None,
        prefix: str = "conv",
    ) -> None:
        super().__init__()
        hidden = int(out_channels * expansion)
        self._names = tuple(f"{prefix}{i}" for i in (1, 2, 3))
        self.add_module(self._names[0], conv(in_channels, hidden, 1, 1))
        self.add_module(self._names[1], conv(in_channels, hidden, 1, 1))
        self.add_module(self._names[2], conv(2 * hidden, out_channels, 1, 1))
        blocks = (Bottleneck(hidden, hidden, shortcut, 1.0, conv, conv3x3, prefix) for _ in range(depth))
        self.m = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        inner, passing, last = (self.get_submodule(name) for name in self._names)
        return last(torch.cat((self.m(inner(x)), passing(x)), dim=1))  # type: ignore[no-any-return]


class C3(CSPLayer):
    """``CSPLayer`` with YOLOv5's keys: ``cv1``, ``cv2``, ``cv3``, ``m.0.cv1``, ..."""

    def __init__(
        self, in_channels: int, out_channels: int, depth: int = 1, shortcut: bool = True, conv: ConvFactory = CBS
    ) -> None:
        super().__init__(in_channels, out_channels, depth, shortcut, conv=conv, prefix="cv")
