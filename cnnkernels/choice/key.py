"""What of a call's arguments a measurement is kept under: dtypes, shapes, layouts and options.

A key decides on speed only, so it may be coarse.  Floats (eps, thresholds) are left out, a sequence of equal integers is
one of them (``stride`` reaches an op as [2] or [2, 2]), and a tensor that is not dense counts as the layout it is copied to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cnnkernels import _layout


def text(args: Sequence[Any]) -> str:
    """``float16[1,32,112,112]nhwc float16[32,1,3,3] float32[32] float32[32] 1 - 1 relu6 -``."""
    return " ".join(_word(a) for a in args if type(a) is not float)


def _word(a: Any) -> str:
    if isinstance(a, Tensor):
        layout = "" if a.dim() != 4 else "nhwc" if _layout.is_channels_last(a) else "nchw"
        return f"{str(a.dtype).removeprefix('torch.')}[{','.join(map(str, a.shape))}]{layout}"
    if a is None:
        return "-"
    if isinstance(a, (list, tuple)):
        words = [_word(each) for each in a]
        same = len(set(words)) == 1 and type(a[0]) is int
        return words[0] if same else f"({','.join(words)})"
    return str(a)


def quick(args: Sequence[Any]) -> tuple[Any, ...]:
    """What ``text`` follows from, as a tuple that is made in a fraction of the time; it has no hash if an argument has none."""
    parts: list[Any] = []
    for a in args:
        if isinstance(a, Tensor):
            parts += (a.dtype, a.shape, a.stride())
        elif type(a) is list:
            parts.append(quick(a))
        elif type(a) is not float:
            parts.append(a)
    return tuple(parts)
