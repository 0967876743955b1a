"""Into a network and out of it on a CPU: images into channels_last, the last map into its means.

Where nobody watches, by kernels of this package: PyTorch's copy of a 224 x 224 image and its mean over 7 x 7 pixels take
130 and 110 us, a twentieth of MobileNetV2 each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cnnkernels import _ext
from cnnkernels.nn import _unit

_AVAILABLE = _ext.has_kernel("channels_last", "cpu") and _ext.has_kernel("mean_pixels", "cpu")


def _free(x: Tensor) -> bool:
    """Whether a kernel without an op may take x."""
    return _AVAILABLE and _unit.plain_tensor(x) and not (x.requires_grad and torch.is_grad_enabled())


def as_channels_last(x: Tensor) -> Tensor:
    """Images [N, C, H, W] in channels_last, also with a single channel, where only strides tell."""
    if x.shape[1] == 1:  # the same memory in both layouts
        _, _, h, w = x.shape
        return x.contiguous().as_strided(x.shape, (h * w, 1, w, 1))
    if (
        1 < x.shape[1] <= 4
        and x.is_contiguous()
        and not x.is_contiguous(memory_format=torch.channels_last)
        and _free(x)
    ):
        y: Tensor = _ext.direct_ops.channels_last(x)
        return y
    return x.contiguous(memory_format=torch.channels_last)


def mean_over_pixels(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C]."""
    if _unit.plain_image(x) and _free(x):
        y: Tensor = _ext.direct_ops.mean_pixels(x)
        return y
    return x.mean((2, 3))
