"""Triton kernel of Focus and its inverse, in either layout."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cnnkernels import _layout

BITS = {2: torch.int16, 4: torch.int32}  # elements travel as integers, so that no conversion can touch a NaN's payload
BLOCK = 1024


@triton.jit
def focus_kernel(
    from_ptr,
    to_ptr,
    elements,
    channels,
    height,
    width,
    LAST: tl.constexpr,
    INVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # One program: BLOCK neighbouring elements of the quarters [N, 4C, height, width], 2e bytes each; each has its place in
    # the image [N, C, 2 * height, 2 * width].
    quarter = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = quarter < elements
    if LAST:
        channel = quarter % (4 * channels)
        pixel = quarter // (4 * channels)
        column, row = pixel % width, pixel // width  # rows of all images
    else:
        column, row = quarter % width, quarter // width % height
        channel = quarter // width // height
        row += channel // (4 * channels) * channels * height  # so that rows count on below
        channel = channel % (4 * channels)
    k = channel // channels
    channel = channel % channels
    y, x = 2 * row + k % 2, 2 * column + k // 2
    if LAST:
        image = (y * 2 * width + x) * channels + channel
    else:
        image = (y + channel * 2 * height) * 2 * width + x
    if INVERSE:
        tl.store(to_ptr + image, tl.load(from_ptr + quarter, mask=mask), mask=mask)
    else:
        tl.store(to_ptr + quarter, tl.load(from_ptr + image, mask=mask), mask=mask)


def _launch(given: Tensor, result: Tensor, quarters: Tensor, inverse: bool) -> Tensor:
    elements = result.numel()
    if elements:
        _, channels, height, width = quarters.shape
        bits = BITS[given.element_size()]
        focus_kernel[(triton.cdiv(elements, BLOCK),)](
            _layout.dense(given).view(bits),
            result.view(bits),
            elements,
            channels // 4,
            height,
            width,
            LAST=_layout.is_channels_last(given),
            INVERSE=inverse,
            BLOCK=BLOCK,
            num_warps=4,
        )
    return result


def focus(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    y = _layout.empty_like(x, [n, 4 * c, h // 2, w // 2])
    return _launch(x, y, y, inverse=False)


def focus_inverse(grad: Tensor) -> Tensor:
    n, c, h, w = grad.shape
    return _launch(grad, _layout.empty_like(grad, [n, c // 4, 2 * h, 2 * w]), grad, inverse=True)
