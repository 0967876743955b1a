"""What the decoding of all YOLO heads shares."""

from __future__ import annotations

import torch
from torch import Tensor


def positions(level: Tensor) -> Tensor:
    """Column and row of every cell, [H, W, 2], in dtype and on the device of level: [..., H, W, channels]."""
    height, width = level.shape[-3:-1]
    rows, columns = (torch.arange(n, dtype=level.dtype, device=level.device) for n in (height, width))
    return torch.stack((columns.expand(height, -1), rows[:, None].expand(-1, width)), dim=-1)


def in_full_precision(x: Tensor) -> Tensor:
    """x, or float32 of a half type: its 8 or 11 bits do not tell the pixels of an image apart."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
