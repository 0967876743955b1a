"""Channel shuffle, and the concat + shuffle + split between two ShuffleNetV2 units, each as one pass over the data.

    y[:, i * groups + j] = x[:, j * (C / groups) + i]        0 <= i < C / groups, 0 <= j < groups

The kernels move bytes: results equal the view-transpose-reshape definition bit for bit, NaN payloads included.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cnnkernels import _check, _layout
from cnnkernels._op import Op


def _int_groups(op: str, groups: object) -> None:
    """For the public functions: behind torch.ops, the schema has made groups an int (of True, too)."""
    if not isinstance(groups, int) or isinstance(groups, bool):
        raise TypeError(f"{op}: groups must be an int, got {type(groups).__name__}")


def _check_groups(op: str, groups: int, channels: int) -> None:
    if groups < 1:
        _check.fail(op, "groups must be at least 1", groups)
    if channels % groups:
        _check.fail(op, f"groups must divide the {channels} channels", groups)


def _check_pair(op: str, names: tuple[str, str], a: Tensor, b: Tensor) -> None:
    """Two [N, C, H, W] tensors that differ in C at most."""
    _check.tensor(op, names[0], a, 4)
    _check.tensor(op, names[1], b, 4)
    n, _, h, w = _check.shape(a)
    if b.shape[0] != n or b.shape[2:] != a.shape[2:]:
        _check.fail(op, f"{names[1]} must be [N, C, H, W] with N={n}, H={h}, W={w} as {names[0]}", _check.shape(b))
    _check.like(op, names[1], b, a, names[0])


def _shuffled(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def _fresh(x: Tensor, like: Tensor) -> Tensor:
    """A copy of x that is dense in the layout of ``like``."""
    return x.clone(memory_format=_layout.memory_format(like))


def _eager(x: Tensor, groups: int) -> Tensor:
    """In NCHW with one copy where ``reference`` makes two."""
    y = _layout.as_result(_shuffled(x, groups), x)
    return _fresh(y, x) if y.data_ptr() == x.data_ptr() else y  # of one group the shuffle is a view


def _triton() -> Any:
    from cnnkernels.ops.triton import channel_shuffle

    return channel_shuffle


# ---- channel_shuffle: its own inverse with C / groups groups ------------------------------------------------------------


def _check_shuffle(x: Tensor, groups: int) -> None:
    _check.tensor("channel_shuffle", "x", x, 4)
    _check_groups("channel_shuffle", groups, x.shape[1])


def _save_shuffle(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, groups = inputs
    ctx.inverse = max(x.shape[1] // groups, 1)


CHANNEL_SHUFFLE: Op = Op(
    "channel_shuffle",
    "(Tensor x, int groups) -> Tensor",
    check=_check_shuffle,
    reference=lambda x, groups: _fresh(_shuffled(x, groups), x),
    fake=lambda x, groups: _layout.empty_like(x),
    native=lambda ops, x, groups: ops.channel_shuffle(_layout.dense(x), groups),
    direct=lambda ops, x, groups: ops.channel_shuffle(x, groups),
    eager=_eager,
    native_ops=("channel_shuffle",),
    triton=lambda: _triton().shuffle,
    save=_save_shuffle,
    backward=lambda ctx, grad: (CHANNEL_SHUFFLE(grad, ctx.inverse), None),
)

# ---- concat + shuffle + split -------------------------------------------------------------------------------------------


def _check_concat(a: Tensor, b: Tensor, groups: int) -> None:
    op = "concat_shuffle_split"
    _check_pair(op, ("a", "b"), a, b)
    channels = a.shape[1] + b.shape[1]
    _check_groups(op, groups, channels)
    if channels % 2:
        _check.fail(op, "a and b must have an even number of channels together", channels)


def _half(a: Tensor, b: Tensor) -> list[int]:
    n, _, h, w = a.shape
    return [n, (a.shape[1] + b.shape[1]) // 2, h, w]


def _reference_concat(a: Tensor, b: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    both, half = _shuffled(torch.cat([a, b], 1), groups), _half(a, b)[1]
    return _fresh(both[:, :half], a), _fresh(both[:, half:], a)


def _fake_concat(a: Tensor, b: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    return _layout.empty_like(a, _half(a, b)), _layout.empty_like(a, _half(a, b))


def _direct_concat(ops: Any, a: Tensor, b: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    half, odd = divmod(a.shape[1] + b.shape[1], 2)
    if odd:  # the native op splits anywhere
        raise ValueError("an even number of channels expected")
    return ops.concat_shuffle_split(a, b, half, groups)


def _native_concat(ops: Any, a: Tensor, b: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    return _direct_concat(ops, _layout.dense(a), _layout.dense_as(b, a), groups)


def _check_concat_backward(dleft: Tensor, dright: Tensor, channels_a: int, groups: int) -> None:
    op = "concat_shuffle_split_backward"
    _check_pair(op, ("dleft", "dright"), dleft, dright)
    if dright.shape[1] != dleft.shape[1]:
        _check.fail(op, f"dright must have {dleft.shape[1]} channels as dleft", dright.shape[1])
    channels = 2 * dleft.shape[1]
    _check_groups(op, groups, channels)
    if not 0 <= channels_a <= channels:
        _check.fail(op, f"channels_a must be from 0 to {channels}", channels_a)


def _inverse(dleft: Tensor, groups: int) -> int:
    return max(2 * dleft.shape[1] // groups, 1)


def _split_sizes(dleft: Tensor, channels_a: int) -> tuple[list[int], list[int]]:
    n, half, h, w = dleft.shape
    return [n, channels_a, h, w], [n, 2 * half - channels_a, h, w]


def _reference_concat_backward(dleft: Tensor, dright: Tensor, channels_a: int, groups: int) -> tuple[Tensor, Tensor]:
    both = torch.cat([dleft, dright], 1)
    both = _shuffled(both, _inverse(dleft, groups))
    return _fresh(both[:, :channels_a], dleft), _fresh(both[:, channels_a:], dleft)


def _fake_concat_backward(dleft: Tensor, dright: Tensor, channels_a: int, groups: int) -> tuple[Tensor, Tensor]:
    a, b = _split_sizes(dleft, channels_a)
    return _layout.empty_like(dleft, a), _layout.empty_like(dleft, b)


def _native_concat_backward(
    ops: Any, dleft: Tensor, dright: Tensor, channels_a: int, groups: int
) -> tuple[Tensor, Tensor]:
    dleft, dright = _layout.dense(dleft), _layout.dense_as(dright, dleft)
    return ops.concat_shuffle_split(dleft, dright, channels_a, _inverse(dleft, groups))


CONCAT_SHUFFLE_SPLIT_BACKWARD = Op(
    "concat_shuffle_split_backward",
    "(Tensor dleft, Tensor dright, int channels_a, int groups) -> (Tensor, Tensor)",
    check=_check_concat_backward,
    reference=_reference_concat_backward,
    fake=_fake_concat_backward,
    native=_native_concat_backward,
    native_ops=("concat_shuffle_split",),
    triton=lambda: _triton().concat_shuffle_split_backward,
)


def _save_concat(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    a, _, ctx.groups = inputs
    ctx.channels_a = a.shape[1]


def _backward_concat(ctx: Any, dleft: Tensor, dright: Tensor) -> tuple[Tensor, Tensor, None]:
    return *CONCAT_SHUFFLE_SPLIT_BACKWARD(dleft, dright, ctx.channels_a, ctx.groups), None


CONCAT_SHUFFLE_SPLIT = Op(
    "concat_shuffle_split",
    "(Tensor a, Tensor b, int groups=2) -> (Tensor, Tensor)",
    check=_check_concat,
    reference=_reference_concat,
    fake=_fake_concat,
    native=_native_concat,
    direct=_direct_concat,
    native_ops=("concat_shuffle_split",),
    triton=lambda: _triton().concat_shuffle_split,
    save=_save_concat,
    backward=_backward_concat,
    autocast=("a", "b"),
)

# ---- public -------------------------------------------------------------------------------------------------------------


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """``x`` with its channels, seen as a [groups, C / groups] matrix, transposed.

        y[:, i * groups + j] = x[:, j * (C / groups) + i]

    x: [N, C, H, W], float32, float16, bfloat16 or float64.
    groups: a divisor of C.

    Returns a new tensor of x's shape and dtype, channels_last if x is.  Differentiable, any number of times.
    Raises ValueError if groups is below 1 or does not divide C, TypeError for other dtypes.
    Zhang, Zhou, Lin, Sun 2017, "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices",
    arXiv:1707.01083.
    """
    _int_groups("channel_shuffle", groups)
    return CHANNEL_SHUFFLE(x, groups)


def concat_shuffle_split(a: Tensor, b: Tensor, groups: int = 2) -> tuple[Tensor, Tensor]:
    """``channel_shuffle(cat([a, b], 1), groups).chunk(2, 1)`` in one pass: what joins two ShuffleNetV2 units.

    a, b: [N, Ca, H, W] and [N, Cb, H, W] of one dtype; Ca + Cb is even and a multiple of groups.
    groups: 2 in ShuffleNetV2.

    Returns (left, right), both [N, (Ca + Cb) / 2, H, W], new and dense, channels_last if a is.  Differentiable, any
    number of times.  Raises ValueError for shapes that do not fit, TypeError for dtypes that are not floats or differ.
    Ma, Zhang, Zheng, Sun 2018, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
    arXiv:1807.11164.
    """
    _int_groups("concat_shuffle_split", groups)
    return CONCAT_SHUFFLE_SPLIT(a, b, groups)
