"""PyTorch computes float32 convolutions on a GPU in TF32 (10 bits of mantissa) unless told otherwise."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def without_tf32() -> AbstractContextManager[None]:
    """Convolutions as exact as their dtype, for a while; cuDNN's other settings stay as they are, but it tries nothing out."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(  # type: ignore[no-any-return]
        enabled=cudnn.enabled, benchmark=False, deterministic=cudnn.deterministic, allow_tf32=False
    )
