"""What a network costs, counted layer by layer: parameters, multiply-adds, activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True)
class Cost:
    parameters: int
    """Numbers in ``model.parameters()``; running statistics are not among them."""
    macs: int
    """Multiply-adds of convolutions and linear layers (FLOPs are twice that); biases, BatchNorm and the rest: none."""
    activations: int
    """Numbers that the convolutions write (Radosavovic et al. 2020, arXiv:2003.13678, section 3)."""


def _macs(layer: Any, x: Tensor, y: Tensor) -> int:
    per_input_channel = layer.weight.numel() // layer.weight.shape[0]
    if isinstance(layer, nn.ConvTranspose2d):  # every input position meets the whole filter of its channel
        return x.numel() * per_input_channel
    return y.numel() * per_input_channel


def cost(model: nn.Module, input_shape: Sequence[int]) -> Cost:
    """Counts one forward pass in evaluation over an input of ``input_shape`` [N, C, H, W], N = 1 for the usual figures.

    The model keeps its mode.  On the meta device (``with torch.device("meta"): model = create_model(...)``) nothing is
    computed, and the largest network takes a second.
    """
    macs = activations = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        nonlocal macs, activations
        macs += _macs(layer, inputs[0], y)
        if not isinstance(layer, nn.Linear):
            activations += y.numel()

    # A layer with a hook is called as a module, so the fused ops hide none.
    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, _LAYERS)]
    modes = [(m, m.training) for m in model.modules()]
    device = next(model.parameters()).device
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(tuple(input_shape), device=device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return Cost(sum(p.numel() for p in model.parameters()), macs, activations)
