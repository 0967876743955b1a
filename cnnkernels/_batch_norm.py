"""What the batch-norm ops share: argument checks, per-channel parameters, statistics, and the running buffers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnkernels import _check


def check_input(op: str, x: object) -> None:
    """x is a float tensor [N, C, ...]."""
    _check.tensor(op, "x", x)
    assert isinstance(x, Tensor)
    if x.dim() < 2:
        _check.fail(op, "x must be [N, C, ...]", _check.shape(x))


def check(op: str, x: Tensor, channels: Any, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
    """Arguments of the registered op; ``x`` names device and dtype, ``channels`` those of the normalised tensor."""
    for name, t in (("bn_weight", weight), ("bn_bias", bias)):
        if t is not None:
            _check.channel_vector(op, name, t, x, channels)
    _check.eps(op, eps)


def check_count(op: str, shape: Any) -> None:
    """The normalised tensor [N, C, ...] has none (empty batch) or at least two values per channel."""
    count = shape[0]
    for s in shape[2:]:
        count = count * s
    if count == 1:
        _check.fail(op, "more than one value per channel is needed for batch statistics", list(shape))


def check_running(
    op: str, x: Tensor, channels: Any, running_mean: Tensor | None, running_var: Tensor | None, momentum: object
) -> None:
    """The arguments of the public functions that the registered op does not see."""
    if not isinstance(momentum, (int, float)) or isinstance(momentum, bool):
        raise TypeError(f"{op}: momentum must be a float, got {type(momentum).__name__}")
    if not 0 <= momentum <= 1:
        _check.fail(op, "momentum must be between 0 and 1", momentum)
    if (running_mean is None) != (running_var is None):
        _check.fail(op, "running_mean and running_var must both be given or both be None", "one of them")
    for name, t in (("running_mean", running_mean), ("running_var", running_var)):
        if t is not None:
            _check.channel_vector(op, name, t, x, channels)


def vector(v: Tensor, x: Tensor) -> Tensor:
    """A per-channel parameter of fp32 or x's dtype as the kernels take it: contiguous, in x's accumulate dtype."""
    if v.dtype is not torch.float32 or x.dtype is torch.float64:
        if v.dtype not in (torch.float32, x.dtype):
            raise TypeError(f"per-channel parameters must be float32 or {x.dtype}, got {v.dtype}")
        v = v.to(_check.acc_dtype(x))
    return v.contiguous()


def vector_or_none(v: Tensor | None, x: Tensor) -> Tensor | None:
    return None if v is None else vector(v, x)


def reference_stats(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel of [N, C, ...], in fp32 (fp64 for fp64); zeros for an empty batch."""
    x = x.to(_check.acc_dtype(x))
    axes = [i for i in range(x.dim()) if i != 1]
    count = max(x.numel() // max(x.shape[1], 1), 1)
    mean = x.sum(axes) / count
    var = (x - along_channels(mean, x)).square().sum(axes) / count
    return mean, var


def eager(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale_c * x + shift_c`` in fp32 or fp64 by PyTorch's batch norm."""
    scale, shift = scale.to(x.dtype), shift.to(x.dtype)
    return F.batch_norm(x, torch.zeros_like(scale), torch.ones_like(scale), scale, shift, training=False, eps=0.0)


def along_channels(v: Tensor, x: Tensor) -> Tensor:
    """The channel vector v, shaped to broadcast over x = [N, C, ...]."""
    return v.reshape(1, -1, *[1] * (x.dim() - 2))


def update_running(
    running_mean: Tensor | None, running_var: Tensor | None, mean: Tensor, var: Tensor, count: int, momentum: float
) -> None:
    """``running = (1 - momentum) * running + momentum * batch``, in place, the variance made unbiased, as PyTorch does.

    mean and var [C] are what the op returned for ``count`` values per channel.  An empty batch changes nothing.
    """
    if running_mean is None or running_var is None or count < 2:
        return
    with torch.no_grad():
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
