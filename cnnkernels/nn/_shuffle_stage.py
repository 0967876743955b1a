"""Units of ShuffleNetV2 in evaluation on a CPU, one after the other, as one call: branches, concatenations and shuffles."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from cnnkernels import _ext
from cnnkernels.nn import _plan, _unit
from cnnkernels.nn._chain import Chain, chain_of
from cnnkernels.nn._plan import Plan, kept_plan, snapshot_of
from cnnkernels.nn.sequential import FusedSequential

_AVAILABLE = _plan.AVAILABLE and _ext.has_kernel("shuffle_stage", "cpu")

Branches = tuple[Any, Any]  # left and right; a left one without children passes the left half of the channels


def _fit(left: Chain, right: Chain, x: Tensor) -> bool:
    """Whether they are the two branches of a unit at stride 2."""
    return (
        len(left.units) == 2
        and left.squeeze is None
        and (left.window(x), left.acts[1:], left.slope) == (right.window(x), right.acts[1:], right.slope)
        and (left.channels, left.out_channels) == (right.channels, right.out_channels)
    )


def _make(left: FusedSequential, right: FusedSequential, x: Tensor) -> Plan | None | bool:
    branch, other = chain_of(right), chain_of(left) if left else None
    ours = (
        branch is not None
        and len(branch.units) == 3
        and branch.squeeze is None
        and type(branch.depthwise) is nn.Conv2d
        and (not left or (other is not None and _fit(other, branch, x)))
    )
    if not ours or branch is None:
        return False
    sources, others = branch.sources(), other.sources() if other else ()
    if sources is None or others is None or not _unit.untouched(left, FusedSequential):
        return None
    weights = (*(other.folded()[1:] if other else ()), *branch.folded())
    arguments = weights, 2 * branch.out_channels, branch.window(x), branch.acts, branch.slope
    snapshot = snapshot_of([*branch.modules(), *(other.modules() if other else [left])])
    return Plan("shuffle_stage", arguments, branch.channels * (1 if other else 2), snapshot, (*sources, *others))


def plans_of(units: Sequence[Branches], x: Tensor) -> list[Plan] | None:
    """Of each unit; None unless they are one stage."""
    plans: list[Plan] = []
    channels: int = x.shape[1]
    for left, right in units:
        if not _AVAILABLE or type(left) is not FusedSequential or type(right) is not FusedSequential:
            return None
        plan = kept_plan(right, ("shuffle unit", left), x, partial(_make, left, right, x))
        if plan is None or plan.channels != channels:
            return None
        if plans and (left or _rest(plan) != _rest(plans[0])):
            return None
        plans.append(plan)
        channels = plan.arguments[1]
    return plans


def _rest(plan: Plan) -> tuple[Any, ...]:
    """What all units of a stage have in common."""
    _, channels, _, acts, slope = plan.arguments
    return channels, acts, slope


def joined(plans: Sequence[Plan]) -> tuple[Any, ...]:
    """The arguments of the kernel for all of them."""
    channels, acts, slope = _rest(plans[0])
    weights: list[Tensor] = []
    windows: list[int] = []
    for plan in plans:
        weights += plan.arguments[0]
        windows += plan.arguments[2]
    return weights, channels, windows, acts, slope


def stage_plan(units: Sequence[Branches], x: Tensor) -> Plan | None:
    """All units as one plan."""
    plans = plans_of(units, x)
    if not plans:
        return None
    snapshot = snapshot_of([])
    for plan in plans:
        snapshot.add(plan.snapshot)
    sources = tuple(t for plan in plans for t in plan.sources)
    return Plan("shuffle_stage", joined(plans), plans[0].channels, snapshot, sources)


def shuffle_stage(units: Sequence[Branches], x: Any) -> Tensor | None:
    """The last unit's ``channel_shuffle(cat(left(x), right(x)), 2)``; None where that cannot be one call."""
    if not _unit.plain_image(x):
        return None
    plans = plans_of(units, x)
    if not plans or any(plan.needs_gradient(x) for plan in plans):
        return None
    try:
        y: Tensor = _ext.direct_ops.shuffle_stage(x, *joined(plans))
    except RuntimeError:
        # A window or an instruction set that the kernel does not take: the modules run, or say what is wrong.
        return None
    return y
