"""Focus, the space-to-depth step in front of YOLOv5 and YOLOX, as one pass over the data.

    y[:, k * C + c, i, j] = x[:, c, 2 * i + k % 2, 2 * j + k // 2]        0 <= k < 4

The kernels move bytes: results equal the four slices and their concatenation bit for bit, NaN payloads included.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cnnkernels import _check, _layout
from cnnkernels._op import Op

PHASES = tuple((k % 2, k // 2) for k in range(4))
"""(row, column) of the four pixels of a 2 x 2 square in the order of y's channels: top left, bottom left, top right, bottom
right."""


def _triton() -> Any:
    from cnnkernels.ops.triton import focus

    return focus


# ---- one image from four quarters: the inverse, and the gradient -----------------------------------------------------------


def _check_backward(grad: Tensor) -> None:
    _check.tensor("focus_backward", "grad", grad, 4)
    if grad.shape[1] % 4:
        _check.fail("focus_backward", "grad must be [N, 4C, H, W]", _check.shape(grad))


def _whole(grad: Tensor) -> list[int]:
    n, c, h, w = grad.shape
    return [n, c // 4, 2 * h, 2 * w]


def _reference_backward(grad: Tensor) -> Tensor:
    n, c, h, w = grad.shape
    split = grad.reshape(n, 2, 2, c // 4, h, w)  # column, row of the square
    return _layout.copy_as(split.permute(0, 3, 4, 2, 5, 1).reshape(_whole(grad)), grad)


FOCUS_BACKWARD: Op = Op(
    "focus_backward",
    "(Tensor grad) -> Tensor",
    check=_check_backward,
    reference=_reference_backward,
    fake=lambda grad: _layout.empty_like(grad, _whole(grad)),
    native=lambda ops, grad: ops.focus_inverse(_layout.dense(grad)),
    direct=lambda ops, grad: ops.focus_inverse(grad),
    native_ops=("focus_inverse",),
    triton=lambda: _triton().focus_inverse,
    save=lambda ctx, inputs, output: None,
    backward=lambda ctx, grad: FOCUS(grad),
)

# ---- four quarters from one image ------------------------------------------------------------------------------------------


def _check_focus(x: Tensor) -> None:
    _check.tensor("focus", "x", x, 4)
    if x.shape[2] % 2 or x.shape[3] % 2:
        _check.fail("focus", "x must be [N, C, H, W] with H and W even", _check.shape(x))


def _quarters(x: Tensor) -> list[int]:
    n, c, h, w = x.shape
    return [n, 4 * c, h // 2, w // 2]


FOCUS: Op = Op(
    "focus",
    "(Tensor x) -> Tensor",
    check=_check_focus,
    reference=lambda x: _layout.copy_as(torch.cat([x[..., i::2, j::2] for i, j in PHASES], 1), x),
    fake=lambda x: _layout.empty_like(x, _quarters(x)),
    native=lambda ops, x: ops.focus(_layout.dense(x)),
    direct=lambda ops, x: ops.focus(x),
    native_ops=("focus",),
    triton=lambda: _triton().focus,
    save=lambda ctx, inputs, output: None,
    backward=lambda ctx, grad: FOCUS_BACKWARD(grad),
)


def focus(x: Tensor) -> Tensor:
    """The pixels of each 2 x 2 square of ``x`` as channels: top left, bottom left, top right, bottom right.

        y = cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)

    x: [N, C, H, W] with H and W even; float32, float16, bfloat16 or float64.

    Returns a new tensor [N, 4C, H / 2, W / 2] of x's dtype, channels_last if x is.  Differentiable, any number of times.
    Raises ValueError if H or W is odd, TypeError for other dtypes.
    Ge, Liu, Wang, Li, Sun 2021, "YOLOX: Exceeding YOLO Series in 2021", arXiv:2107.08430; the layer comes from YOLOv5.
    """
    return FOCUS(x)
