"""BatchNorm whose statistics grow over the mini-batches of one batch (CmBN)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnkernels import _check


class Statistics(NamedTuple):
    """Of the mini-batches seen so far, without gradients."""

    mini_batches: int
    values: int
    """Per channel."""
    mean: Tensor
    """[C], float32 or float64."""
    var: Tensor
    """[C], biased."""


class CmBatchNorm2d(nn.Module):
    """Cross mini-batch normalisation (YOLOv4, Bochkovskiy et al. 2020, arXiv 2004.10934, fig. 4).

    For training by gradient accumulation, where a batch comes in parts and the weights change once per batch: a
    mini-batch is normalised by the statistics of itself and of all earlier ones of its batch, so the last one is treated
    as BatchNorm treats it within the whole batch.  Gradients flow through the mini-batch's own share of the statistics.
    The running statistics are updated once per batch, with those of all of it.  In evaluation it is BatchNorm.

    num_features, eps, momentum: as for ``torch.nn.BatchNorm2d``, and so are the parameters, buffers and their names.
    mini_batches: how many make a batch; None: a batch lasts until ``start_batch()``.

    x: [N, num_features, H, W], floating-point; returns the same shape, dtype and layout.  ValueError for other shapes,
    and in training if a batch starts with a single value per channel.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        mini_batches: int | None = 4,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if mini_batches is not None and mini_batches < 1:
            raise ValueError(f"CmBatchNorm2d: mini_batches must be positive or None, got {mini_batches}")
        self.num_features, self.eps, self.momentum, self.mini_batches = num_features, eps, momentum, mini_batches
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.ones(num_features, **where))
        self.bias = nn.Parameter(torch.zeros(num_features, **where))
        self.register_buffer("running_mean", torch.zeros(num_features, **where))
        self.register_buffer("running_var", torch.ones(num_features, **where))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long, device=device))
        self.accumulated: Statistics | None = None
        """Of the batch that has begun; None between batches."""

    @classmethod
    def convert(cls, module: nn.Module, mini_batches: int | None = 4) -> nn.Module:
        """``module`` with every ``BatchNorm2d`` in it, or itself, in this form; parameters and buffers are shared.

        Only those with an affine part and running statistics.
        """
        if type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats:
            new = cls(module.num_features, module.eps, module.momentum, mini_batches, device="meta")
            new._parameters.update(module._parameters)
            new._buffers.update(module._buffers)
            return new.train(module.training)
        for name, child in module.named_children():
            setattr(module, name, cls.convert(child, mini_batches))
        return module

    def start_batch(self) -> None:
        """The next mini-batch begins a batch.  One that is under way ends here and enters the running statistics."""
        if self.accumulated is not None:
            self._end_batch(self.accumulated)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.num_features:
            raise ValueError(f"CmBatchNorm2d: x must be [N, {self.num_features}, H, W], got {list(x.shape)}")
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        mean, var = self._statistics(x)
        dtype = _check.acc_dtype(x)
        scale = self.weight.to(dtype) * torch.rsqrt(var + self.eps)
        shift = self.bias.to(dtype) - mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance [C] of the batch up to and with ``x``, which is added to it."""
        count = x.numel() // self.num_features
        before = self.accumulated
        if count + (0 if before is None else before.values) < 2:
            raise ValueError(
                f"CmBatchNorm2d: more than one value per channel is needed in training, got {list(x.shape)}"
            )
        var, mean = torch.var_mean(x.to(_check.acc_dtype(x)), dim=(0, 2, 3), correction=0)
        mini_batches = 1
        if before is not None:
            # Chan et al. 1979: the variance within the two parts, and that between their means.
            mini_batches += before.mini_batches
            share, count = count / (before.values + count), before.values + count
            difference = mean - before.mean
            mean = before.mean + share * difference
            var = (1 - share) * before.var + share * var + share * (1 - share) * difference.square()
        now = Statistics(mini_batches, count, mean.detach(), var.detach())
        self.accumulated = now
        if mini_batches == self.mini_batches:
            self._end_batch(now)
        return mean, var

    def _end_batch(self, batch: Statistics) -> None:
        self.accumulated = None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            unbiased = batch.var * (batch.values / (batch.values - 1))
            self.running_mean.lerp_(batch.mean.to(self.running_mean.dtype), share)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, mini_batches={self.mini_batches}"
