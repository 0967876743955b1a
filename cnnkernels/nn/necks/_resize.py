"""Feature maps brought to the size of the level above or below."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from cnnkernels.nn import _enlarge
from cnnkernels.nn.max_pool import MaxPool2d
from cnnkernels.ops.upsample_add import upsample_add

# By whether height and width are odd: TensorFlow's SAME padding has one row on either side of an odd height; of an even
# one only the bottom has one, which is a window that reaches beyond it.
_HALVING = {(h, w): MaxPool2d(3, 2, (h, w), ceil_mode=True) for h in (0, 1) for w in (0, 1)}

_POOLS = [MaxPool2d(2**steps, 2**steps, ceil_mode=True) for steps in range(5)]


def halved(x: Tensor) -> Tensor:
    """Maxima of 3x3 pixels at stride 2, padded as TensorFlow does: [N, C, ceil(H / 2), ceil(W / 2)]."""
    height, width = x.shape[2:]
    return _HALVING[height % 2, width % 2](x)  # type: ignore[no-any-return]


def pooled(x: Tensor, steps: int) -> Tensor:
    """Maxima of squares of 2^steps pixels, those at the bottom and the right maybe smaller; x itself for steps <= 0."""
    return x if steps <= 0 else _POOLS[steps](x)  # type: ignore[no-any-return]


def upsampled(x: Tensor, size: Sequence[int]) -> Tensor:
    """The nearest pixel of x for each of [N, C, *size]; x itself where it has that size."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="nearest")


def plus_upsampled(y: Tensor, x: Tensor) -> Tensor:
    """``y + upsampled(x, y's size)``, as one pass where nobody watches."""
    if x.shape != y.shape and _enlarge.suits(x, y):
        return upsample_add(x, y)
    return y + upsampled(x, y.shape[2:])


def check_maps(neck: str, maps: Sequence[Tensor], channels: Sequence[int]) -> None:
    """ValueError unless maps are images with these numbers of channels."""
    if [m.shape[1] if m.dim() == 4 else None for m in maps] != list(channels):
        shapes = ", ".join(str(list(m.shape)) for m in maps)
        raise ValueError(f"{neck}: needs maps [N, C, H, W] with C = {list(channels)}, got {shapes or 'none'}")
