"""What the Inception networks share: convolution + BatchNorm + ReLU, parallel branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.nn import ConvBNAct

Layer = tuple[Any, ...]
"""(channels, kernel_size): stride 1, the size is kept; (channels, kernel_size, stride): no padding."""


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel_size: Any, stride: int = 1, padding: int | None = None
) -> ConvBNAct:
    """Children conv (no bias), bn (eps 1e-3) and act.  padding: None keeps the size at stride 1."""
    block = ConvBNAct(in_channels, out_channels, kernel_size, stride, padding, act="relu", eps=1e-3)
    block.act.inplace = True
    return block


def convolutions(in_channels: int, layers: Sequence[Layer]) -> list[nn.Module]:
    """One ``conv_bn_relu`` after another."""
    made: list[nn.Module] = []
    for out_channels, kernel_size, *stride in layers:
        made.append(conv_bn_relu(in_channels, out_channels, kernel_size, *stride, *([0] if stride else [])))
        in_channels = out_channels
    return made


def branch(in_channels: int, *layers: Layer, pool: nn.Module | None = None) -> nn.Module:
    """Pooling, if any, and convolutions; a single layer comes without a Sequential around it."""
    made = ([] if pool is None else [pool]) + convolutions(in_channels, layers)
    return made[0] if len(made) == 1 else nn.Sequential(*made)


class Branches(nn.Module):
    """Its children over the same x, [N, C, H, W], and their results joined along the channels in order."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, module in branches.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([child(x) for child in self.children()], dim=1)
