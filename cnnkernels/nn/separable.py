"""Depthwise-separable convolution without anything between its two halves."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cnnkernels.nn import _unit
from cnnkernels.nn._block import FusedBlock
from cnnkernels.nn.conv import same_padding


class SeparableConv2d(FusedBlock):
    """One filter per channel, then a 1x1 convolution: Chollet 2016, "Xception", arXiv:1610.02357; effdet's keys.

    Children ``conv_dw`` (no bias), ``conv_pw`` and, where asked for, ``bn`` behind it.  Stride 1, the size is kept.

    bias: of ``conv_pw``.  norm: whether there is a ``bn``, made with ``eps`` and ``momentum``.

    x: [N, in_channels, H, W], returns [N, out_channels, H, W].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        bias: bool = True,
        norm: bool = False,
        **bn: Any,
    ) -> None:
        super().__init__()
        padding = same_padding(kernel_size, 1)
        self.conv_dw = nn.Conv2d(in_channels, in_channels, kernel_size, padding=padding, groups=in_channels, bias=False)
        self.conv_pw = nn.Conv2d(in_channels, out_channels, 1, bias=bias)
        if norm:
            self.bn = nn.BatchNorm2d(out_channels, **bn)

    def forward(self, x: Tensor, bn: nn.Module | None = None, act: nn.Module | None = None, key: Any = None) -> Tensor:
        """bn, act: computed behind the 1x1 convolution instead of the module's own ``bn``; not its children, as where
        several share these weights.  key: under which the weights folded with this bn are kept."""
        x = self.fused(x, "conv_dw")
        if bn is None:
            bn = self._modules.get("bn")
        return _unit.run(self, ("conv_pw", key), x, self.conv_pw, bn, act)
