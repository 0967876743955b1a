"""Building blocks of Darknet's networks: Redmon, Farhadi 2018, "YOLOv3", arXiv:1804.02767, table 1; Bochkovskiy, Wang,
Liao 2020, "YOLOv4", arXiv:2004.10934, with the cross stages of Wang et al. 2019, "CSPNet", arXiv:1911.11929.

Their surveys draw the networks from these: CBL and CBM (convolution, BatchNorm, activation), Res unit, ResX (X units), CSPX.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnkernels import ops
from cnnkernels.nn import _unit
from cnnkernels.nn.conv import ConvBNAct
from cnnkernels.nn.sequential import plus

LEAKY = "leaky_relu(0.1)"
"""Darknet's ``leaky``: the slope is that of its source code."""

_WINDOWS = (13, 9, 5)


class CBL(ConvBNAct):
    """Convolution, BatchNorm, leaky ReLU of slope 0.1.  Arguments as for ``ConvBNAct``, which has any activation."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, act=LEAKY, **kwargs)


class CBM(ConvBNAct):
    """Convolution, BatchNorm, Mish.  Arguments as for ``ConvBNAct``, which has any activation."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, act="mish", **kwargs)


class ResUnit(nn.Module):
    """``x + conv2(conv1(x))``, a 1x1 convolution to ``hidden`` channels and a 3x3 one back, each with BN and activation.

    x: [N, channels, H, W], returns the same shape.
    """

    def __init__(self, channels: int, hidden: int, act: str = LEAKY) -> None:
        super().__init__()
        self.conv1 = ConvBNAct(channels, hidden, 1, act=act)
        self.conv2 = ConvBNAct(hidden, channels, 3, act=act)

    def forward(self, x: Tensor) -> Tensor:
        return plus(self.conv2, self.conv1(x), x)


class ResX(nn.Module):
    """A 3x3 convolution of stride 2, then ``depth`` units.  x: [N, in_channels, H, W], returns out_channels at H / 2."""

    def __init__(self, in_channels: int, out_channels: int, depth: int, act: str = LEAKY) -> None:
        super().__init__()
        self.conv_down = ConvBNAct(in_channels, out_channels, 3, 2, act=act)
        self.blocks = nn.Sequential(*(ResUnit(out_channels, out_channels // 2, act) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.conv_down(x))  # type: ignore[no-any-return]


class CSPX(nn.Module):
    """A 3x3 convolution of stride 2, then ``depth`` units on half of the channels: CSPNet, figure 2 (b); x as in ``ResX``.

    The children are the convolutions of the authors' configuration files, in their order: the half that passes
    (``conv_cross``), the one that goes through the units, and their join (units, passing half).
    The first stage of a network has halves as wide as its result and narrower units: ``first``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, depth: int, act: str = "mish", *, first: bool = False
    ) -> None:
        super().__init__()
        half = out_channels if first else out_channels // 2
        self.conv_down = ConvBNAct(in_channels, out_channels, 3, 2, act=act)
        self.conv_cross = ConvBNAct(out_channels, half, 1, act=act)
        self.conv_in = ConvBNAct(out_channels, half, 1, act=act)
        self.blocks = nn.Sequential(*(ResUnit(half, half // 2 if first else half, act) for _ in range(depth)))
        self.conv_out = ConvBNAct(half, half, 1, act=act)
        self.conv_transition = ConvBNAct(2 * half, out_channels, 1, act=act)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_down(x)
        inner = self.conv_out(self.blocks(self.conv_in(x)))
        return self.conv_transition(torch.cat((inner, self.conv_cross(x)), dim=1))  # type: ignore[no-any-return]


class TinyCSP(nn.Module):
    """The block of YOLOv4-tiny: a cross stage on the second half of the channels that ``conv1`` returns.

    x: [N, channels, H, W], returns (joined, inner): [N, 2 * channels, H, W] and its second half, what the inner
    convolutions return [N, channels, H, W].
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = CBL(channels, channels, 3)
        self.conv2 = CBL(half, half, 3)
        self.conv3 = CBL(half, half, 3)
        self.conv4 = CBL(channels, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv1(x)
        first = self.conv2(x.chunk(2, dim=1)[1].clone())  # dense, which the fused paths want
        inner = self.conv4(torch.cat((self.conv3(first), first), dim=1))
        return torch.cat((x, inner), dim=1), inner


class DarknetSPP(nn.Module):
    """x beside its maxima over 13, 9 and 5 pixels at stride 1, in Darknet's order: (13, 9, 5, x).

    x: [N, C, H, W], returns [N, 4 C, H, W].  He et al. 2014, arXiv:1406.4729, as YOLOv3-SPP and YOLOv4 have it.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4 and _unit.ordinary_call(x):
            return torch.cat((ops.spp(x, _WINDOWS)[:, x.shape[1] :], x), dim=1)
        return torch.cat([*(F.max_pool2d(x, k, 1, k // 2) for k in _WINDOWS), x], dim=-3)
