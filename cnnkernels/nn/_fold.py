"""BatchNorm folded into a scale and a shift per channel, and when a folded result may be used again.

    bn(conv(x) + b)_c = scale_c * conv(x)_c + shift_c
    scale_c = gamma_c / sqrt(running_var_c + eps)
    shift_c = beta_c + scale_c * (b_c - running_mean_c)

Computed in float64 and rounded once.  A kept result is valid while every tensor it came from is the same object with
the same version counter and the same storage; it is also dropped by ``train()``, ``eval()``, ``to()`` and its like, and
``load_state_dict``.  A write through ``tensor.data`` is invisible to version counters: call ``eval()`` after one.
So are the steps of torch's fused optimizers (2.13), which are counted here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

T = TypeVar("T")

TENSORS = (torch.nn.Parameter, Tensor)
"""The exact types whose values a fused path may read; a subclass (DTensor, a quantised weight) has rules of its own."""


def _count_fused_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    fused = [p for group in optimizer.param_groups if group.get("fused") for p in group["params"]]
    torch.autograd.graph.increment_version([p for p in fused if type(p) in TENSORS])


register_optimizer_step_post_hook(_count_fused_step)


def are_constants(*tensors: Tensor | None) -> bool:
    """Whether a float32 kernel without gradients may read them: each is None or a plain float32 tensor that wants none."""
    return all(t is None or (type(t) is Tensor and t.dtype is torch.float32 and not t.requires_grad) for t in tensors)


@dataclass(frozen=True)
class Folded:
    """What a fused path needs of conv and bn.

    ``weight`` is the convolution's; with ``into_weight`` times scale, and then in the order that ``reorder`` gives it.
    """

    scale: Tensor
    shift: Tensor
    weight: Tensor | None


@dataclass(frozen=True)
class _Entry:
    sources: tuple[Tensor | None, ...]
    state: tuple[Any, ...]
    result: Any


def sources_of(conv: Any, bn: Any) -> tuple[Tensor | None, ...]:
    """The tensors that folding reads.  Either may be None."""
    of_conv = () if conv is None else (conv.weight, conv.bias)
    return of_conv if bn is None else (*of_conv, bn.weight, bn.bias, bn.running_mean, bn.running_var)


def scale_and_shift(bn: Any, bias: Tensor | None, like: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Differentiable towards the parameters of bn and the bias.  ``bn=None`` is the identity; like: [C, ...]."""
    double = torch.float64
    if bn is None:
        scale = torch.ones(like.shape[0], dtype=double, device=like.device)
        shift = torch.zeros_like(scale) if bias is None else bias.to(double)
    else:
        scale = (bn.running_var.to(double) + bn.eps).rsqrt()
        if bn.weight is not None:
            scale = scale * bn.weight.to(double)
        mean = bn.running_mean.to(double)
        shift = scale * (mean.neg() if bias is None else bias.to(double) - mean)
        if bn.bias is not None:
            shift = shift + bn.bias.to(double)
    return scale.to(dtype), shift.to(dtype)


def scaled_weight(conv: Any, scale: Tensor) -> Tensor:
    """In float64, like scale."""
    return conv.weight.to(torch.float64) * scale[:, None, None, None]


Reorder = Callable[[Tensor, Tensor], Tensor]
"""Of the scaled weight and the shift: the weight as some kernel wants it."""


def fold(conv: Any, bn: Any, dtype: torch.dtype, into_weight: bool, reorder: Reorder | None = None) -> Folded:
    bias = None if conv is None else conv.bias
    like = conv.weight if bn is None else bn.running_var
    if not into_weight or conv is None:
        return Folded(*scale_and_shift(bn, bias, like, dtype), None if conv is None else conv.weight)
    scale, shift = scale_and_shift(bn, bias, like, torch.float64)
    weight = scaled_weight(conv, scale).to(conv.weight.dtype)
    shift = shift.to(dtype)
    return Folded(scale.to(dtype), shift, weight if reorder is None else reorder(weight, shift))


class FoldsBatchNorm(nn.Module):
    """Base of modules that keep folded results: not in ``state_dict``, copies and pickles start without any."""

    def __init__(self) -> None:
        super().__init__()
        self._folds: dict[Any, Any] = {}

    def folded(
        self, name: Any, conv: Any, bn: Any, dtype: torch.dtype, into_weight: bool, reorder: Reorder | None = None
    ) -> Folded:
        """conv and bn folded, kept under ``name`` where that is safe; ``reorder`` belongs to the name.

        Where a gradient may be asked for, and under ``torch.compile``, it is computed afresh, as part of the graph.
        """
        state = (dtype, into_weight, None if bn is None else bn.eps)
        kept = self.kept(name, sources_of(conv, bn), state, lambda: fold(conv, bn, dtype, into_weight, reorder))
        return fold(conv, bn, dtype, into_weight, reorder) if kept is None else kept

    def kept(
        self, name: Any, sources: tuple[Tensor | None, ...], numbers: tuple[Any, ...], compute: Callable[[], T]
    ) -> T | None:
        """What ``compute`` made of sources and numbers, now or at an earlier call; None where it must not be kept."""
        tensors = [t for t in sources if t is not None]
        if (
            torch.compiler.is_compiling()
            or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
            or any(t.is_inference() for t in tensors)  # these have no version counter
        ):
            return None
        state = (*numbers, *((t._version, t.data_ptr(), t.dtype) for t in tensors))
        entry = self._folds.get(name)
        if (
            entry is None
            or entry.state != state
            or any(a is not b for a, b in zip(entry.sources, sources, strict=True))
        ):
            # Normal tensors without history, also in inference mode: a later call may need a gradient for x.
            with torch.inference_mode(False), torch.no_grad():
                entry = _Entry(sources, state, compute())
            self._folds[name] = entry
        result: T = entry.result
        return result

    def train(self, mode: bool = True) -> FoldsBatchNorm:
        self._folds.clear()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FoldsBatchNorm:
        self._folds.clear()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._folds.clear()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_folds": {}}
