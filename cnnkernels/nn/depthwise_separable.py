"""A depthwise convolution and a 1x1 one, each with BatchNorm and activation, in evaluation on a CPU as one call.

The blocks of YOLOX-nano against the two calls of ``ConvBNAct``, fp32, channels_last, one thread, batch 1: 1.2 - 2.7x.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from cnnkernels.nn import _unit
from cnnkernels.nn._inverted_residual import CHAINS, plan_of
from cnnkernels.nn._plan import Plan
from cnnkernels.nn.activation import create_activation
from cnnkernels.nn.conv import same_padding
from cnnkernels.nn.sequential import FusedSequential


class DepthwiseSeparable(FusedSequential):
    """A ``FusedSequential`` of two, of which the first is depthwise: the map between them is never stored where that is
    possible.  ``depthwise_separable`` makes one.

    Howard et al. 2017, "MobileNets", arXiv:1704.04861, figure 3.
    """

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:  # type: ignore[override]
        plan = plan_of(self, x, False) if residual is None and _unit.plain_image(x) else None
        if plan is not None and plan.takes(x):
            try:
                return plan(x)
            except RuntimeError:
                pass  # a window, an instruction set that the kernel does not take: the children run, or say what is wrong
        return super().forward(x, residual)

    def _plan(self, x: Tensor) -> Plan | None:
        return plan_of(self, x, False)


CHAINS.add(DepthwiseSeparable)


def depthwise_separable(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, act: str = "silu", **bn: Any
) -> DepthwiseSeparable:
    """Children ``dconv`` (depthwise) and ``pconv`` (1x1), each of ``conv``, ``bn`` (made with ``bn``) and ``act``."""

    def unit(width: int, kernel_size: int, stride: int, groups: int) -> FusedSequential:
        padding = same_padding(kernel_size, 1)
        conv = nn.Conv2d(in_channels, width, kernel_size, stride, padding, groups=groups, bias=False)
        norm = nn.BatchNorm2d(width, **bn)
        return FusedSequential(OrderedDict(conv=conv, bn=norm, act=create_activation(act, inplace=True)))

    depthwise = unit(in_channels, kernel_size, stride, in_channels)
    return DepthwiseSeparable(OrderedDict(dconv=depthwise, pconv=unit(out_channels, 1, 1, 1)))
