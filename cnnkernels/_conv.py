"""Stride, padding and dilation of a depthwise convolution: what callers may write, what it means, what it may not be."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnkernels import _check

INT_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


class Window(NamedTuple):
    """A convolution's geometry in full: pairs are (vertical, horizontal), padding is (left, right, top, bottom)."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    size: tuple[int, int]  # output rows and columns


def ints(op: str, name: str, value: Any) -> tuple[int, ...]:
    """An int or a sequence of ints as a tuple; TypeError for anything else, bool included."""
    if type(value) is int:
        return (value,)
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    for v in values:
        if isinstance(v, bool) or not isinstance(v, (int, torch.SymInt)):
            raise TypeError(f"{op}: {name} must be an int or a sequence of ints, got {value!r}")
    return values


def padding_ints(op: str, padding: Any) -> tuple[int, ...] | None:
    return None if padding is None else ints(op, "padding", padding)


def _pair(op: str, name: str, values: Sequence[int]) -> tuple[int, int]:
    if len(values) not in (1, 2):
        _check.fail(op, f"{name} must be an int or a pair", list(values))
    if any(v < 1 or v > INT_MAX for v in values):
        _check.fail(op, f"{name} must be at least 1 and below 2**31", list(values))
    return values[0], values[-1]


def _padding(
    op: str, padding: Sequence[int] | None, kernel: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    if padding is None:
        if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
            _check.fail(op, "padding=None needs an odd kernel size, give the padding", f"kernel {list(kernel)}")
        v, h = dilation[0] * (kernel[0] // 2), dilation[1] * (kernel[1] // 2)
        padding = (v, h)
    elif len(padding) not in (1, 2, 4):
        _check.fail(op, "padding must be an int, a pair or (left, right, top, bottom)", list(padding))
    if any(p < 0 or p > INT_MAX for p in padding):
        _check.fail(op, "padding must be at least 0 and below 2**31", list(padding))
    return sides(padding)


def sides(padding: Sequence[int]) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) of one, two (vertical, horizontal) or these four numbers."""
    if len(padding) == 4:
        left, right, top, bottom = padding
        return left, right, top, bottom
    v, h = padding[0], padding[-1]
    return h, h, v, v


def _resolve(
    op: str,
    x_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...] | None,
    dilation: tuple[int, ...],
) -> Window:
    input_size, kernel = x_shape[2:4], (weight_shape[2], weight_shape[3])
    s, d = _pair(op, "stride", stride), _pair(op, "dilation", dilation)
    p = _padding(op, padding, kernel, d)
    padded = (input_size[0] + p[2] + p[3], input_size[1] + p[0] + p[1])
    reach = tuple(d[i] * (kernel[i] - 1) + 1 for i in range(2))
    if reach[0] > padded[0] or reach[1] > padded[1]:
        _check.fail(
            op, f"the kernel must fit into the padded input {list(padded)}", f"{list(reach)} with dilation {list(d)}"
        )
    return Window(s, p, d, ((padded[0] - reach[0]) // s[0] + 1, (padded[1] - reach[1]) // s[1] + 1))


_resolve_cached = lru_cache(maxsize=1024)(_resolve)


@lru_cache(maxsize=1024)
def _native(
    weight_shape: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...] | None, dilation: tuple[int, ...]
) -> tuple[int, ...]:
    s, d = _pair("dwconv", "stride", stride), _pair("dwconv", "dilation", dilation)
    return s + _padding("dwconv", padding, (weight_shape[2], weight_shape[3]), d) + d


def native(
    weight: Tensor, stride: Sequence[int], padding: Sequence[int] | None, dilation: Sequence[int]
) -> tuple[int, ...]:
    """Stride, padding and dilation in full, as the native ops take them."""
    return _native(weight.shape, tuple(stride), None if padding is None else tuple(padding), tuple(dilation))


def resolve(
    op: str, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int] | None, dilation: Sequence[int]
) -> Window:
    """The window of a convolution of x with weight; ValueError for one that does not exist."""
    args = (
        op,
        x.shape,
        weight.shape,
        tuple(stride),
        None if padding is None else tuple(padding),
        tuple(dilation),
    )
    try:
        return _resolve_cached(*args)
    except TypeError:  # symbolic sizes have no hash
        return _resolve(*args)


def check(
    op: str,
    x: Any,
    weight: Any,
    stride: Sequence[int],
    padding: Sequence[int] | None,
    dilation: Sequence[int],
) -> Window:
    """x and weight are a depthwise convolution's, and its window exists."""
    _check.tensor(op, "x", x, 4)
    _check.tensor(op, "weight", weight)
    c, h, w = x.shape[1:]
    if c == 0 or h == 0 or w == 0:
        _check.fail(op, "x must have at least one channel, row and column", _check.shape(x))
    if weight.dim() != 4 or weight.shape[0] != c or weight.shape[1] != 1 or 0 in weight.shape[2:]:
        _check.fail(op, f"weight must be [C, 1, kH, kW] with C={c} (x is {_check.shape(x)})", _check.shape(weight))
    _check.like(op, "weight", weight, x)
    window = resolve(op, x, weight, stride, padding, dilation)
    elements = x.shape[0] * c * window.size[0] * window.size[1]
    if isinstance(elements, int) and elements * x.element_size() > INT64_MAX:
        _check.fail(op, "the output must have fewer than 2**63 bytes", [x.shape[0], c, *window.size])
    return window


def output_shape(x: Tensor, window: Window) -> list[int]:
    return [x.shape[0], x.shape[1], *window.size]


def reference(x: Tensor, weight: Tensor, window: Window) -> Tensor:
    """The convolution in plain PyTorch, in the accumulation dtype."""
    acc = _check.acc_dtype(x)
    padded = F.pad(x.to(acc), window.padding)
    return F.conv2d(padded, weight.to(acc), stride=window.stride, dilation=window.dilation, groups=x.shape[1])


def eager(x: Tensor, weight: Tensor, bias: Tensor, window: Window) -> Tensor:
    """The convolution as a model calls it: in x's dtype, with the padding in it where both sides have the same."""
    left, right, top, bottom = window.padding
    padding = (top, left)
    if (left, top) != (right, bottom):
        x, padding = F.pad(x, window.padding), (0, 0)
    return F.conv2d(x, weight, bias, window.stride, padding, window.dilation, groups=x.shape[1])


def reference_grads(du: Tensor, x: Tensor, weight: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """(dx, dweight) of ``reference`` for the gradient du of its result, in the accumulation dtype; differentiable."""
    acc = _check.acc_dtype(x)
    left, _, top, _ = window.padding
    padded = F.pad(x.to(acc), window.padding)
    dpadded, dweight, _ = torch.ops.aten.convolution_backward(
        du,
        padded,
        weight.to(acc),
        None,
        window.stride,
        [0, 0],
        window.dilation,
        False,
        [0, 0],
        x.shape[1],
        [True, True, False],
    )
    return dpadded[:, :, top : top + x.shape[2], left : left + x.shape[3]], dweight


def flops(weight_shape: Sequence[int], output_shape: Sequence[int]) -> int:
    """As torch counts a convolution: two per multiply-add."""
    n, c, p, q = output_shape
    return 2 * weight_shape[2] * weight_shape[3] * n * c * p * q
