"""TensorFlow's SAME padding, which depends on the size of the image."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class Conv2dSame(nn.Conv2d):
    """``nn.Conv2d`` that returns [N, out_channels, ceil(H / stride), ceil(W / stride)] for every H and W.

    Where the padding is uneven, the bottom and the right get one row and one column more.  At stride 2 and even sizes
    this differs from ``padding=kernel_size // 2``, which pads the top and the left, too: networks that were trained with
    TensorFlow need it (``padding="SAME"`` there; torch's own "same" refuses strides).

    Arguments as for ``torch.nn.Conv2d``; ``padding`` is accepted and not used: the padding is found at every call.
    The fused paths of ``cnnkernels.nn`` know this class.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.padding_mode != "zeros":
            raise ValueError(f"Conv2dSame: padding_mode must be zeros, got {self.padding_mode!r}")
        self.padding = (0, 0)

    def padding_for(self, x: Tensor) -> tuple[int, ...]:
        """For images x: (top and bottom, left and right), or (left, right, top, bottom) where two sides differ."""
        sides = []
        for axis in (-1, -2):
            size, stride = x.shape[axis], self.stride[axis]
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
            sides += [total // 2, total - total // 2]
        left, right, top, bottom = sides
        return (top, left) if left == right and top == bottom else (left, right, top, bottom)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = self.padding_for(x)
        if len(padding) == 4:
            x, padding = F.pad(x, padding), (0, 0)
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation, self.groups)  # type: ignore[arg-type]
