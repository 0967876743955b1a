"""Random hue, saturation and brightness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cnnkernels.detection.sample import Image, Sample


@dataclass(frozen=True)
class HsvJitter:
    """``jitter(sample, rng)``: hue, saturation and value changed at random, boxes as they were.  YOLOv5's amounts.

    Hue is turned by up to ``hue`` of a full circle; saturation and value are multiplied by 1 -/+ up to their amount, and
    end at their largest.
    """

    hue: float = 0.015
    saturation: float = 0.7
    value: float = 0.4

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        turn, saturation, value = rng.uniform(-1, 1, 3) * (self.hue, self.saturation, self.value)
        return sample._replace(image=adjust_hsv(sample.image, turn, 1 + saturation, 1 + value))


def adjust_hsv(image: Image, turn: float, saturation: float, value: float) -> Image:
    """uint8 [H, W, 3] with its hue turned by ``turn`` of a circle, its saturation and value multiplied and clipped."""
    red, green, blue = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float().div_(255)
    highest = torch.maximum(torch.maximum(red, green), blue)
    chroma = highest - torch.minimum(torch.minimum(red, green), blue)
    # Sixths of the circle, from 0 at red over 2 at green and 4 at blue; grey has none.
    over = chroma.clamp(min=1e-9)
    sixths = torch.where(highest == green, (blue - red) / over + 2, (red - green) / over + 4)
    sixths = torch.where(highest == red, (green - blue) / over, sixths) + 6 * turn
    new_value = (highest * value).clamp_(max=1)
    new_chroma = (chroma / highest.clamp(min=1e-9) * saturation).clamp_(max=1) * new_value
    channels = [_channel(sixths, offset, new_value, new_chroma) for offset in (5, 3, 1)]
    return torch.stack(channels, dim=-1).mul_(255).add_(0.5).to(torch.uint8).numpy()


def _channel(sixths: Tensor, offset: int, value: Tensor, chroma: Tensor) -> Tensor:
    """``value`` less ``chroma`` by how far the hue is from the channel: 0 within a sixth either side, 1 beyond two."""
    k = (sixths + offset).remainder_(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)
