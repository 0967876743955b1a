"""The inverted residual with squeeze-and-excitation, as in MobileNetV3, MnasNet and EfficientNet; torchvision's keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from cnnkernels.nn._inverted_residual import inverted_residual, plan_of
from cnnkernels.nn._plan import Plan
from cnnkernels.nn.blocks import SqueezeExcite, conv_bn_act
from cnnkernels.nn.sequential import FusedSequential


class StochasticDepth(nn.Module):
    """In training, images drop out of the batch one by one: x / (1 - p), or zero with probability p.

    Huang et al. 2016, "Deep Networks with Stochastic Depth", arXiv:1603.09382.  p: from 0 to below 1; x: [N, ...].
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"StochasticDepth: p must be at least 0 and below 1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(1 - self.p)
        return x * kept.div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class MBConv(nn.Module):
    """1x1 expansion, depthwise convolution, squeeze-and-excitation, linear 1x1 projection; the input where shapes allow.

    Tan et al. 2018, "MnasNet", arXiv:1807.11626, figure 7; Howard et al. 2019, "Searching for MobileNetV3",
    arXiv:1905.02244, figure 4.  Children in ``block`` as in torchvision: ``block.0.0.weight``, ``block.0.1.weight``, ...

    hidden_channels: of the depthwise convolution; the expansion is left out where they equal in_channels.
    stride: 1 or 2.
    act: after the expansion and the depthwise convolution.
    squeeze_channels: of the squeeze-and-excitation; 0 for none.  squeeze_act, gate: its activations.
    drop_path: probability with which training leaves an image out of the branch, where there is a sum.
    conv: makes every convolution; a subclass of ``nn.Conv2d`` where padding differs.
    bn: ``eps`` and ``momentum`` of every BatchNorm.

    x: [N, in_channels, H, W], returns [N, out_channels, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        act: str = "silu",
        squeeze_channels: int = 0,
        squeeze_act: str = "relu",
        gate: str = "sigmoid",
        drop_path: float = 0.0,
        conv: Callable[..., nn.Conv2d] = nn.Conv2d,
        **bn: Any,
    ) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"MBConv: stride must be 1 or 2, got {stride}")
        if squeeze_channels < 0:
            raise ValueError(f"MBConv: squeeze_channels must be 0 or more, got {squeeze_channels}")
        c = hidden_channels
        layers: list[nn.Module] = []
        if c != in_channels:
            layers.append(conv_bn_act(in_channels, c, 1, act=act, conv=conv, **bn))
        layers.append(conv_bn_act(c, c, kernel_size, stride, c, act=act, dilation=dilation, conv=conv, **bn))
        if squeeze_channels:
            layers.append(SqueezeExcite(c, squeeze_channels, squeeze_act, gate))
        layers.append(conv_bn_act(c, out_channels, 1, act=None, conv=conv, **bn))
        self.block: Any = FusedSequential(*layers)
        self.use_res_connect = stride == 1 and in_channels == out_channels
        self.stochastic_depth: Any = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        if self._drops():
            return self.stochastic_depth(self.block(x)) + x
        return inverted_residual(self.block, x, self.use_res_connect)

    def _drops(self) -> bool:
        return self.use_res_connect and self.training and self.stochastic_depth.p > 0

    def _plan(self, x: Tensor) -> Plan | None:
        return None if self._drops() else plan_of(self.block, x, self.use_res_connect)
