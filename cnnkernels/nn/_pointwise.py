"""1x1 convolutions in evaluation by ``pointwise_conv_bn_act``; on a CPU on weights that are folded and packed once.

Against oneDNN's convolution with kept weights, bias and activation (the layers of MobileNetV2 and EfficientNet-B0, fp32,
channels_last, one thread of a Sapphire Rapids): 1.0 - 1.7x at batch 1, 0.95 - 1.4x at batch 8, geometric means 1.3x and
1.1x; the losses are 5 % at 960 to 320 and 320 to 1280 channels and batch 8.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cnnkernels import _backend, _op, ops
from cnnkernels.nn._fold import FoldsBatchNorm, are_constants, sources_of
from cnnkernels.ops.pointwise_conv_bn_act import POINTWISE_CONV_BN_ACT, pack, packed


def suits(x: Tensor, conv: Any, *factors: Tensor | None) -> bool:
    """conv is 1x1, and x as the packed kernel takes it; factors (gate, residual) are plain tensors without a gradient.

    That weights may be folded is for the caller to know.
    """
    return (
        _is_pointwise(x, conv)
        and x.dtype is conv.weight.dtype is torch.float32
        and ((x.stride(1) == 1 and x.is_contiguous(memory_format=torch.channels_last)) or x.shape[2] * x.shape[3] == 1)
        and are_constants(*factors)
        and POINTWISE_CONV_BN_ACT.why_not("cpu", "cpu") is None
    )


def suits_gpu(x: Tensor, conv: Any, bn: Any, residual: Tensor | None) -> bool:
    """Half types in evaluation, without a gradient: where one pass is faster than cuDNN's convolution and ``bn_act``.

    float32 is left to cuDNN, which may compute it in TF32.
    """
    tensors = (x, residual, *sources_of(conv, bn))
    return (
        x.is_cuda
        and _is_pointwise(x, conv)
        and x.dtype is conv.weight.dtype in (torch.float16, torch.bfloat16)
        and x.is_contiguous(memory_format=torch.channels_last)
        and _faster_on_gpu(x.numel() // x.shape[1], conv.in_channels, conv.out_channels)
        and (residual is None or residual.dtype is x.dtype)
        and not (bn is not None and (bn.training or bn.running_mean is None))
        and not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors))
        and POINTWISE_CONV_BN_ACT.default_backend("cuda") != "reference"
    )


def _faster_on_gpu(pixels: int, channels: int, outputs: int) -> bool:
    """Against cuDNN's convolution and ``bn_act`` (H200, fp16, channels_last; layers of MobileNetV2 and EfficientNet-B0).

    One image: 1.1 - 2.2x, but 0.6x for 960 to 160 channels.  128 images: expansions 1.0 - 1.4x (0.8x for 320 to 1280), while
    projections, whose tiles are mostly empty columns, are 0.5 - 1.0x.
    """
    if outputs > channels:
        return channels < 256 or pixels <= 2048
    return channels <= 256 and pixels <= 16384


def _is_pointwise(x: Tensor, conv: Any) -> bool:
    return (
        conv.kernel_size == (1, 1)
        and conv.stride == (1, 1)
        and conv.groups == 1
        and conv.padding in ((0, 0), "valid", "same")
        and x.shape[1] == conv.in_channels
        and x.numel() > 0
    )


def run(
    owner: FoldsBatchNorm,
    name: Any,
    x: Tensor,
    conv: Any,
    bn: Any,
    act: str,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
) -> Tensor:
    """``act(bn(conv(x * gate))) + residual`` where it ``suits`` or ``suits_gpu``."""
    if x.is_cpu and _backend.STATE.plain and not _op._dispatcher_is_needed():
        folded = owner.folded((name, "packed"), conv, bn, torch.float32, into_weight=True, reorder=pack)
        try:
            return packed(x, folded.weight, conv.out_channels, act, gate, residual)  # type: ignore[arg-type]
        except RuntimeError:
            pass  # a residual of another layout, another instruction set: the op converts, or says what is wrong
    folded = owner.folded(name, conv, bn, torch.float32, into_weight=False)
    return ops.pointwise_conv_bn_act(
        x,
        folded.weight,  # type: ignore[arg-type]
        folded.scale,
        folded.shift,
        act=act,
        gate=gate,
        residual=residual,
    )
