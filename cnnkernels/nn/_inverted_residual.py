"""Expansion, depthwise convolution, squeeze-and-excitation and projection in evaluation on a CPU as one call.

Blocks of EfficientNet-B0 against eager modules in channels_last, fp32, two cores of a Zen 2, batch 1: 2.1 - 3.4x, the map
between expansion and projection never stored.  Without the arithmetic such a call costs 20 us.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cnnkernels import _activation, _ext
from cnnkernels.nn import _plan, _unit
from cnnkernels.nn._chain import chain_of
from cnnkernels.nn._plan import Plan, kept_plan, padded, snapshot_of
from cnnkernels.nn.sequential import FusedSequential, plus

_AVAILABLE = _plan.AVAILABLE and _ext.has_kernel("inverted_residual", "cpu")
CHAINS: set[type[FusedSequential]] = {FusedSequential}
"""Classes that compute nothing but their children, one after the other."""


def inverted_residual(block: Any, x: Any, residual: bool) -> Any:
    """``block(x)``, plus x if ``residual``: as one call where that is possible, else by its modules."""
    if _unit.plain_image(x):
        plan = plan_of(block, x, residual)
        if plan is not None and plan.takes(x):
            try:
                return plan(x)
            except RuntimeError:
                pass  # a window, an instruction set that the kernel does not take: the modules run, or say what is wrong
    return plus(block, x, x) if residual else block(x)


def plan_of(block: Any, x: Tensor, residual: bool) -> Plan | None:
    """The plan of ``block(x)``, plus x if ``residual``."""
    if not _AVAILABLE or type(block) not in CHAINS:
        return None
    return kept_plan(block, ("inverted residual", residual), x, lambda: _make(block, x, residual))


def _make(block: FusedSequential, x: Tensor, residual: bool) -> Plan | None | bool:
    chain = chain_of(block)
    if chain is None:
        return False
    sources = chain.sources()
    if sources is None:
        return None
    layers: tuple[Any, ...] = (None, None, None, None, 0, 0.0, 0)
    if chain.squeeze is not None:
        fc1, fc2, act, gate = chain.squeeze.parts()  # type: ignore[misc]
        layers = (fc1.weight, fc1.bias, fc2.weight, fc2.bias, *_activation.parse(act), _activation.CODES[gate])
    arguments = *chain.folded(), chain.out_channels, chain.window(x), chain.acts, chain.slope, residual, *layers
    snapshot, padding = snapshot_of(chain.modules()), padded(chain.depthwise, x)
    return Plan("inverted_residual", arguments, chain.channels, snapshot, sources, padding)
