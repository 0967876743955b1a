"""What the mobile networks share: widths in multiples of 8, and initial weights."""

from __future__ import annotations

from torch import nn


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of divisor that is not more than 10 % below."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def initialise_layer(module: nn.Module) -> None:
    """Initial weights as torchvision's MobileNets have them; the papers are silent."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)
