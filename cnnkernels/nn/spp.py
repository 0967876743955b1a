"""Spatial pyramid pooling between two 1x1 convolutions: what a cell sees, at several sizes, at the same resolution.

He et al. 2014, "Spatial Pyramid Pooling in Deep Convolutional Networks", arXiv:1406.4729, as YOLOv3-SPP changed it: maxima
over growing windows around every cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.nn import _unit
from cnnkernels.nn.csp import CBS, ConvFactory
from cnnkernels.nn.max_pool import MaxPool2d
from cnnkernels.ops.spp import MOST_SIZES, spp


def _same(kernel_size: int) -> MaxPool2d:
    if kernel_size % 2 == 0:
        raise ValueError(f"SPP: kernel sizes must be odd, got {kernel_size}")
    return MaxPool2d(kernel_size, 1, kernel_size // 2)


def _window(pool: Any) -> int:
    """Size of the square around a cell whose maximum the pool gives; 0 for another pool, or one that is to be called."""
    if not _unit.untouched(pool, MaxPool2d) or pool.return_indices:
        return 0
    k, window = pool.kernel_size, (pool.stride, pool.padding, pool.dilation)
    return k if isinstance(k, int) and k % 2 and window == (1, k // 2, 1) else 0


def _as_one_op(x: Tensor, sizes: Sequence[int]) -> bool:
    return _unit.ordinary_call(x) and x.dim() == 4 and all(sizes) and 0 < len(sizes) <= MOST_SIZES


class SPP(nn.Module):
    """``conv2(cat(y, pool5(y), pool9(y), pool13(y)))`` with ``y = conv1(x)``, half as wide as x.

    kernel_sizes: of the pools (children of ``m``), odd.
    conv: makes the convolutions; prefix: of their names (YOLOX "conv", YOLOv5 "cv").

    x: [N, in_channels, H, W], returns [N, out_channels, H, W].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_sizes: Sequence[int] = (5, 9, 13),
        conv: ConvFactory = CBS,
        prefix: str = "conv",
    ) -> None:
        super().__init__()
        hidden = in_channels // 2
        self._names = tuple(f"{prefix}{i}" for i in (1, 2))
        self.add_module(self._names[0], conv(in_channels, hidden, 1, 1))
        self.m = nn.ModuleList(_same(k) for k in kernel_sizes)
        self.add_module(self._names[1], conv(hidden * (len(kernel_sizes) + 1), out_channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        first, last = (self.get_submodule(name) for name in self._names)
        y = first(x)
        sizes = [_window(pool) for pool in self.m]
        if _as_one_op(y, sizes):
            return last(spp(y, sizes))  # type: ignore[no-any-return]
        return last(torch.cat([y, *(pool(y) for pool in self.m)], dim=1))  # type: ignore[no-any-return]


class SPPF(nn.Module):
    """``SPP`` by one pool three times over its own result: windows of k, 2 k - 1 and 3 k - 2 cells, so 5, 9 and 13.

    The same keys and values as ``SPP(in_channels, out_channels, (k, 2 * k - 1, 3 * k - 2), prefix="cv")``; of YOLOv5 6.0.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 5, conv: ConvFactory = CBS) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.cv1 = conv(in_channels, hidden, 1, 1)
        self.cv2 = conv(4 * hidden, out_channels, 1, 1)
        self.m = _same(kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        maps, k = [self.cv1(x)], _window(self.m)
        if _as_one_op(maps[0], [k]):
            return self.cv2(spp(maps[0], (k, 2 * k - 1, 3 * k - 2)))  # type: ignore[no-any-return]
        for _ in range(3):
            maps.append(self.m(maps[-1]))
        return self.cv2(torch.cat(maps, dim=1))  # type: ignore[no-any-return]
