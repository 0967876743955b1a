"""Focal loss: Lin, Goyal, Girshick, He, Dollar 2017, "Focal Loss for Dense Object Detection", arXiv:1708.02002."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0, label_smoothing: float = 0.0
) -> Tensor:
    """``-alpha_t (1 - p_t)^gamma log p_t`` for each of ``logits``: any shape, floating-point; the same shape is returned.

    p_t is the score where ``targets`` (same shape, 0 to 1) is 1 and 1 - score where it is 0; alpha_t likewise of alpha, and 1
    everywhere for a negative alpha.  label_smoothing: of the targets in log p_t only, as EfficientDet's authors do.
    Half types are computed as they are: give float32.  Differentiable in ``logits``.
    """
    smoothed = targets * (1 - label_smoothing) + label_smoothing / 2 if label_smoothing else targets
    entropy = F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none")
    return _focused(entropy, logits.sigmoid(), targets, alpha, gamma)


def focal_loss(scores: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """The same for ``scores`` from 0 to 1 in place of logits, where they are products of several; log p_t is at least -100."""
    entropy = F.binary_cross_entropy(scores, targets, reduction="none")
    return _focused(entropy, scores, targets, alpha, gamma)


def _focused(entropy: Tensor, scores: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    missed = scores + targets - 2 * scores * targets  # 1 - p_t
    loss = entropy * missed**gamma
    if alpha < 0:
        return loss
    return (alpha * targets + (1 - alpha) * (1 - targets)) * loss
