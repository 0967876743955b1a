"""Attention modules that scale a feature map by what they see in it; ``SqueezeExcite`` is in ``blocks``."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from cnnkernels.nn._block import FusedBlock


class EfficientChannelAttention(nn.Module):
    """``x * sigmoid(conv(mean of x over H and W))``, where ``conv`` runs along the channels: one weight per neighbour.

    Wang et al. 2019, "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", arXiv:1910.03151.
    The kernel grows with the channels: equation 12, gamma = 2 and b = 1, at least 3.  Key: ``conv.weight``.

    x: [N, channels, H, W], returns the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"EfficientChannelAttention: channels must be at least 1, got {channels}")
        t = int((math.log2(channels) + 1) / 2)
        kernel = max(3, t if t % 2 else t + 1)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid()
        return x * gate.view(x.shape[0], -1, 1, 1)


class _ChannelGate(nn.Module):
    """One two-layer network reads the mean and the maximum of every channel; the sum of its answers makes the gates."""

    def __init__(self, channels: int, squeeze_channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, squeeze_channels), nn.ReLU(), nn.Linear(squeeze_channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        gate = (self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))).sigmoid()
        return x * gate[:, :, None, None]


class _ConvBN(FusedBlock):
    """A 7x7 convolution from maximum and mean to one map, with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.fused(x, "conv", "bn")


class _SpatialGate(nn.Module):
    """Maximum and mean over the channels of every pixel make its gate."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = _ConvBN()

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.cat((x.amax(1, keepdim=True), x.mean(1, keepdim=True)), dim=1)
        return x * self.spatial(seen).sigmoid()


class CBAM(nn.Sequential):
    """Channel attention, then spatial attention, each a factor: Woo et al. 2018, arXiv:1807.06521, figures 1 and 2.

    channels: of x.  reduction: channels over those of the middle layer, which are at least 1.  Keys as in the authors'
    code: ``ChannelGate.mlp.1``, ``ChannelGate.mlp.3`` (linear, with biases), ``SpatialGate.spatial.conv``, ``.bn``.

    x: [N, channels, H, W], returns the same.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        if not 1 <= reduction <= channels:
            raise ValueError(f"CBAM: reduction must be from 1 to channels={channels}, got {reduction}")
        children = OrderedDict[str, nn.Module](
            ChannelGate=_ChannelGate(channels, channels // reduction), SpatialGate=_SpatialGate()
        )
        super().__init__(children)
