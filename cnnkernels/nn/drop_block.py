"""DropBlock: dropout of whole squares of a feature map (Ghiasi et al. 2018, arXiv 1810.12890)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropBlock2d(nn.Module):
    """In training, sets squares of ``block_size`` x ``block_size`` to zero and scales up what is left; else the identity.

    The corners of squares are drawn where whole squares fit, with the probability that, were there no overlaps, drops
    ``drop_prob`` of the map; each channel of each image on its own.  With one generator the result is that of
    ``torchvision.ops.drop_block2d``, which takes odd sizes only.

    drop_prob: 0 to 1, may be set between steps: ``linear_drop_prob`` is the paper's schedule.
    block_size: in pixels of the map; no more than the map's smaller side is used.

    x: [N, C, H, W], floating-point.
    """

    def __init__(self, drop_prob: float = 0.1, block_size: int = 7) -> None:
        super().__init__()
        if not 0 <= drop_prob <= 1:
            raise ValueError(f"DropBlock2d: drop_prob must be from 0 to 1, got {drop_prob}")
        if block_size < 1:
            raise ValueError(f"DropBlock2d: block_size must be positive, got {block_size}")
        self.drop_prob, self.block_size = drop_prob, block_size

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"DropBlock2d: x must be [N, C, H, W], got {list(x.shape)}")
        if not self.training or self.drop_prob == 0 or x.numel() == 0:
            return x
        height, width = x.shape[2:]
        block = min(self.block_size, height, width)
        corners = (height - block + 1) * (width - block + 1)
        gamma = min(self.drop_prob * height * width / (block * block * corners), 1.0)
        noise = x.new_empty(x.shape[0], x.shape[1], height - block + 1, width - block + 1).bernoulli_(gamma)
        dropped = F.max_pool2d(F.pad(noise, [block - 1] * 4), block, stride=1)
        kept = 1 - dropped
        share = kept.mean(dtype=torch.float32).clamp(min=1e-12)
        return x * (kept / share).to(x.dtype)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob}, block_size={self.block_size}"


def linear_drop_prob(step: int, steps: int, final: float = 0.1) -> float:
    """The paper's schedule: from 0 at step 0, in a straight line, to ``final`` at ``steps`` and beyond."""
    if steps < 1:
        raise ValueError(f"linear_drop_prob: steps must be positive, got {steps}")
    return final * min(max(step / steps, 0.0), 1.0)
