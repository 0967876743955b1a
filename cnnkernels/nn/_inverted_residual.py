"""Expansion, depthwise convolution, squeeze-and-excitation and projection in evaluation on a CPU as one call.

Whole networks against eager modules in channels_last, fp32, one thread of a Sapphire Rapids, batch 1 and 8: MobileNetV2 2.6x
and 4.0x, MobileNetV3-Large 2.3x and 2.5x, EfficientNet-B0 2.2x and 2.6x; with one call a convolution 1.7x and 1.9x, 1.7x
and 2.2x, 1.5x and 1.4x.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cnnkernels import _activation, _ext
from cnnkernels.nn import _unit
from cnnkernels.nn._block_plan import Chain, Plan, chain_of, plan_of
from cnnkernels.nn.sequential import FusedSequential, plus

_AVAILABLE = _ext.has_kernel("inverted_residual", "cpu")
_KEY = "inverted residual"


def inverted_residual(block: Any, x: Any, residual: bool) -> Any:
    """``block(x)``, plus x if ``residual``: as one call where that is possible, else by its modules."""
    y = _as_one(block, x, residual)
    if y is not None:
        return y
    return plus(block, x, x) if residual else block(x)


def _plan(block: FusedSequential, x: Tensor) -> tuple[Chain, Plan] | None:
    kept = block._folds.get(_KEY)
    if kept is not None:
        if not kept or kept[1].holds():
            return kept or None
        del block._folds[_KEY]
    chain = chain_of(block)
    if chain is None:
        block._folds[_KEY] = False  # nothing but another structure makes it one: ask no more
        return None

    def arguments() -> tuple[Any, ...]:
        return (*chain.folded(), chain.out_channels, chain.window(x), chain.acts, chain.slope)

    plan = plan_of((chain,), chain.channels, arguments)
    if plan is None:
        return None
    block._folds[_KEY] = chain, plan
    return chain, plan


def _as_one(block: Any, x: Any, residual: bool) -> Tensor | None:
    if not _AVAILABLE or type(block) is not FusedSequential or not _unit.plain_image(x):
        return None
    found = _plan(block, x)
    if found is None or x.shape[1] != found[1].channels or found[1].needs_gradient(x):
        return None
    chain, plan = found
    layers: tuple[Any, ...] = (None, None, None, None, 0, 0.0, 0)
    if chain.squeeze is not None:
        parts = chain.squeeze.parts()
        if parts is None:
            return None
        fc1, fc2, act, gate = parts
        layers = (fc1.weight, fc1.bias, fc2.weight, fc2.bias, *_activation.parse(act), _activation.CODES[gate])
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in layers[:4]):
            return None
    try:
        y: Tensor = _ext.direct_ops.inverted_residual(x, *plan.arguments, residual, *layers)
    except RuntimeError:
        # A window or an instruction set that the kernel does not take: the modules run, or say what is wrong.
        return None
    return y
