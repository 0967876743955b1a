"""Units of ShuffleNetV2 in evaluation on a CPU, one after the other, as one call: branches, concatenations and shuffles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cnnkernels import _ext
from cnnkernels.nn import _unit
from cnnkernels.nn._block_plan import Chain, Plan, chain_of, plan_of
from cnnkernels.nn.sequential import FusedSequential

_AVAILABLE = _ext.has_kernel("shuffle_stage", "cpu")
_KEY = "shuffle unit"

Branches = tuple[Any, Any]  # left and right; a left one without children passes the left half of the channels


def _fit(left: Chain, right: Chain, x: Tensor) -> bool:
    """Whether they are the two branches of a unit at stride 2."""
    return (
        len(left.units) == 2
        and left.squeeze is None
        and (left.window(x), left.acts[1:], left.slope) == (right.window(x), right.acts[1:], right.slope)
        and (left.channels, left.out_channels) == (right.channels, right.out_channels)
    )


def _plan(left: FusedSequential, right: FusedSequential, x: Tensor) -> Plan | None:
    """Its arguments: weights, window, and (channels, activations, slope)."""
    kept = right._folds.get(_KEY)
    if kept is not None:
        if not kept or kept.holds():
            return kept or None
        del right._folds[_KEY]
    branch, other = chain_of(right), chain_of(left) if left else None
    ours = (
        branch is not None
        and len(branch.units) == 3
        and branch.squeeze is None
        and (not left or (other is not None and _fit(other, branch, x)))
    )
    if not ours or branch is None:
        right._folds[_KEY] = False  # nothing but another structure makes it one: ask no more
        return None

    def arguments() -> tuple[Any, ...]:
        beside = other.folded()[1:] if other else ()
        return (*beside, *branch.folded()), branch.window(x), (2 * branch.out_channels, branch.acts, branch.slope)

    chains = (branch,) if other is None else (branch, other)
    plan = plan_of(chains, branch.channels * (1 if other else 2), arguments, empty=() if other else (left,))
    if plan is not None:
        right._folds[_KEY] = plan
    return plan


def shuffle_stage(units: Sequence[Branches], x: Any) -> Tensor | None:
    """The last unit's ``channel_shuffle(cat(left(x), right(x)), 2)``; None where that cannot be one call."""
    if not _AVAILABLE or not _unit.plain_image(x):
        return None
    weights: list[Tensor] = []
    windows: list[int] = []
    channels: int = x.shape[1]
    rest: Any = None
    for left, right in units:
        if type(left) is not FusedSequential or type(right) is not FusedSequential:
            return None
        plan = _plan(left, right, x)
        if plan is None or plan.channels != channels or plan.needs_gradient(x):
            return None
        if rest is not None and (left or plan.arguments[2] != rest):
            return None
        of_unit, window, rest = plan.arguments
        weights += of_unit
        windows += window
        channels = rest[0]
    try:
        y: Tensor = _ext.direct_ops.shuffle_stage(x, weights, channels, windows, *rest[1:])
    except RuntimeError:
        # A window or an instruction set that the kernel does not take: the modules run, or say what is wrong.
        return None
    return y
