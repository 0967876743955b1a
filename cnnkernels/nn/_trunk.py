"""The steps of a network in evaluation on a CPU: neighbours that have plans are one native call.

Between two kernels Python finds its objects gone from the caches, and asking of a block whether it is still what it was takes
50 - 80 us, where some blocks compute for 150.  A route through a network asks it of all of them in C++ and goes from kernel to
kernel there.

A module takes part if the class that defines its ``forward`` defines ``_plan(x)`` too: the plan of ``forward(x)`` as things are,
or None.  Hooks are seen, on blocks and on everything in them; a module that has some is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels import _ext
from cnnkernels.nn import _unit
from cnnkernels.nn._fold import FoldsBatchNorm
from cnnkernels.nn._plan import AVAILABLE, Plan, snapshot_of

Call = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Native:
    """Modules that are one call."""

    modules: list[Call]
    steps: list[Any]  # of _C.direct
    channels: int

    def __call__(self, x: Tensor) -> Tensor:
        if _unit.plain_image(x) and x.shape[1] == self.channels and not (x.requires_grad and torch.is_grad_enabled()):
            try:
                y: Tensor = _ext.direct_ops.run(x, self.steps)
                return y
            except RuntimeError:
                pass  # something does not fit x: the modules compute it, or say what is wrong
        for module in self.modules:
            x = module(x)
        return x


@dataclass(frozen=True)
class _Route:
    steps: list[Call]
    legs: list[Call]
    snapshot: Any  # _C.Snapshot
    size: tuple[int, ...] | None  # of the first image, where paddings follow from it

    def leads(self, steps: list[Call], x: Tensor) -> bool:
        """Whether it is the way of x through these steps."""
        return self.steps == steps and self.size in (None, x.shape[2:]) and self.snapshot.holds()


def through(owner: FoldsBatchNorm, steps: Sequence[Call], x: Any, key: Any = "route") -> Any:
    """``steps`` one after the other; the owner, whose parameters theirs are, keeps the route under this key."""
    if not AVAILABLE or not _unit.plain_image(x) or _needs_gradient(owner, x):
        for step in steps:
            x = step(x)
        return x
    route, steps = owner._folds.get(key), list(steps)
    if route is None or not route.leads(steps, x):
        x, owner._folds[key] = _explore(steps, x)
        return x
    for leg in route.legs:
        x = leg(x)
    return x


def _needs_gradient(owner: nn.Module, x: Tensor) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in owner.parameters()))


def _explore(steps: list[Call], x: Tensor) -> tuple[Tensor, _Route]:
    """What the steps make of x, and the route."""
    legs: list[Call] = []
    open_ended: list[tuple[Call, Plan]] = []
    containers: list[nn.Module] = []
    snapshot = snapshot_of([])
    first, size = x.shape[2:], None

    def close() -> None:
        if open_ended:
            modules, plans = zip(*open_ended, strict=True)
            legs.append(_Native(list(modules), [plan.step() for plan in plans], plans[0].channels))
            open_ended.clear()

    for step in steps:
        for module in _leaves(step, containers):
            plan = _plan_of(module, x)
            x = module(x)
            if plan is None:
                close()
                legs.append(module)
            else:
                size = size if plan.padded is None else first
                snapshot.add(plan.snapshot)
                snapshot.add(snapshot_of([module]))
                open_ended.append((module, plan))
    close()
    snapshot.add(snapshot_of(containers))
    return x, _Route(steps, legs, snapshot, size)


def _leaves(step: Any, containers: list[nn.Module]) -> Iterator[Any]:
    """The step, or the modules in it where it only calls them one after the other."""
    if isinstance(step, nn.Module) and _unit.untouched(step, nn.Sequential):
        containers.append(step)
        for child in step._modules.values():
            yield from _leaves(child, containers)
    else:
        yield step


def _plan_of(module: Any, x: Any) -> Plan | None:
    if not isinstance(module, nn.Module) or not _unit.untouched(module, type(module)) or not _unit.plain_image(x):
        return None
    definition = next(c for c in type(module).__mro__ if "forward" in vars(c))
    make = vars(definition).get("_plan")
    plan: Plan | None = make(module, x) if make is not None else None
    return plan if plan is not None and plan.takes(x) else None
