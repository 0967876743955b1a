"""Dense 3x3 convolutions at stride 1 in evaluation on a CPU, by Winograd's F(2x2, 3x3) on weights transformed once.

A pixel takes 4 products a channel instead of 9.  Against oneDNN's convolution with kept weights, bias and activation (fp32,
channels_last, one thread of a Xeon with AVX-512): 1.4 - 1.8x on layers of ResNet and VGG, 1.1x where the map is 7 x 7; the
largest error 1.5e-7 - 6e-7 of the largest value, of oneDNN's 2e-7 - 1.2e-6.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels import _activation, _conv, _ext
from cnnkernels.nn._fold import FoldsBatchNorm, are_constants
from cnnkernels.ops.pointwise_conv_bn_act import pack

_AVAILABLE = _ext.has_kernel("winograd", "cpu")
_MULTIPLE, _FEWEST_TILES = 16, 24
"""Of fewer tiles the transformed weights, 1.8 times as many numbers, take longer to come from memory than is saved."""
_G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=torch.float64)


def reorder(weight: Tensor, shift: Tensor) -> Tensor:
    """[K, C, 3, 3] as the kernel wants it: 16 packed matrices, the elements of G g G^T."""
    g = _G.to(weight.device)
    transformed = torch.einsum("ip,kcpq,jq->ijkc", g, weight.double(), g).to(weight.dtype).flatten(0, 1)
    return torch.cat([pack(u[:, :, None, None], shift) for u in transformed])


def suits(x: Tensor, conv: nn.Conv2d, padding: tuple[int, ...], *added: Tensor | None) -> bool:
    """Whether it is a convolution that gains.  That x is a plain image and weights may be folded is for the caller to know."""
    if not (
        _AVAILABLE
        and conv.kernel_size == (3, 3)
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.in_channels == x.shape[1]
        and conv.in_channels % _MULTIPLE == conv.out_channels % _MULTIPLE == 0
        and conv.weight.dtype is torch.float32
        and are_constants(*added)
    ):
        return False
    left, right, top, bottom = _conv.sides(padding)
    height, width = x.shape[2] + top + bottom - 2, x.shape[3] + left + right - 2
    return (
        max(left, right, top, bottom) <= 2
        and min(height, width) > 0
        and x.shape[0] * -(-height // 2) * -(-width // 2) >= _FEWEST_TILES
    )


def run(
    owner: FoldsBatchNorm,
    name: Any,
    x: Tensor,
    conv: Any,
    bn: Any,
    act: str,
    padding: tuple[int, ...],
    shortcut: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor | None:
    """``act(bn(conv(x)) + shortcut) + residual`` where it ``suits``; None where the kernel does not take it after all."""
    folded = owner.folded((name, "winograd"), conv, bn, torch.float32, into_weight=True, reorder=reorder)
    try:
        y: Tensor = _ext.direct_ops.winograd(
            x, folded.weight, conv.out_channels, _conv.sides(padding), shortcut, residual, *_activation.parse(act)
        )
    except RuntimeError:
        return None  # another instruction set, a sum of another layout: the other paths compute it, or say so
    return y
