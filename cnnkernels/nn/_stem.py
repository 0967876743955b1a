"""Dense convolutions of a few channels, a network's first, in evaluation on a CPU: weights folded and packed once.

Against oneDNN's convolution with kept weights, bias and activation (fp32, channels_last, two cores of a Zen 2): 3x3 at stride
2 1.1 - 1.3x at batch 1 and 1.0 - 1.2x at batch 8, where both wait for memory; 7x7 and 11x11 1.3x.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels import _activation, _conv, _ext
from cnnkernels.nn._fold import FoldsBatchNorm
from cnnkernels.ops.pointwise_conv_bn_act import pack

_AVAILABLE = _ext.has_kernel("stem_conv", "cpu")
_MOST_CHANNELS = 4


def reorder(weight: Tensor, shift: Tensor) -> Tensor:
    """[K, C, kh, kw] as the kernel meets it in a channels_last x: [K, kh, kw, C]."""
    return pack(weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1, 1, 1), shift)


def suits(x: Tensor, conv: nn.Conv2d, act: str) -> bool:
    """Whether it is a convolution of few channels.  That x is plain and weights may be folded is for the caller to know.

    With leaky ReLU oneDNN is a sixth quicker (Darknet's, stride 1): it activates in registers what here is a second pass.
    """
    return (
        _AVAILABLE
        and not act.startswith("leaky_relu")
        and conv.in_channels <= _MOST_CHANNELS
        and conv.in_channels == x.shape[1]
        and conv.groups == 1
        and conv.dilation == (1, 1)
        and conv.weight.dtype is torch.float32
    )


def run(
    owner: FoldsBatchNorm, name: Any, x: Tensor, conv: Any, bn: Any, act: str, padding: tuple[int, ...]
) -> Tensor | None:
    """``act(bn(conv(x)))`` where it ``suits``; None where the kernel does not take it after all."""
    folded = owner.folded((name, "stem"), conv, bn, torch.float32, into_weight=True, reorder=reorder)
    try:
        y: Tensor = _ext.direct_ops.stem_conv(
            x,
            folded.weight,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            _conv.sides(padding),
            *_activation.parse(act),
        )
    except RuntimeError:
        return None  # another instruction set, a kernel that does not fit: the other paths compute it, or say so
    return y
