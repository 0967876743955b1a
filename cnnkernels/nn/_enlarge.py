"""When the sum of a map and an enlarged coarser one is the op ``upsample_add``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cnnkernels.nn import _unit
from cnnkernels.nn._fold import TENSORS


def suits(x: Any, y: Any) -> bool:
    """Whether these are maps of one dtype, batch and number of channels, and nobody watches what happens to them."""
    return (
        _unit.ordinary_call(x)
        and type(y) in TENSORS
        and x.dim() == y.dim() == 4
        and x.shape[:2] == y.shape[:2]
        and x.dtype is y.dtype
        and x.is_floating_point()
    )


def repeats_pixels(module: Any, x: Tensor, y: Tensor) -> bool:
    """Whether module does nothing but enlarge x to y's size by repeating pixels, and nobody sees the result."""
    if not _unit.untouched(module, nn.Upsample) or module.mode != "nearest" or module.size is not None:
        return False
    times = module.scale_factor
    return (
        isinstance(times, float)
        and times.is_integer()
        and suits(x, y)
        and tuple(y.shape[2:]) == tuple(int(times) * size for size in x.shape[2:])
    )
