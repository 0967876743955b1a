"""Modules in evaluation on a CPU as one native call whose arguments are kept: folded and packed weights, windows, codes.

What a plan follows from is all in its snapshot: classes, hooks, attributes, children and tensors of every module that it
takes the place of.  A call asks only whether that still holds.  Like folded weights, plans are dropped by ``train()``,
``eval()``, ``to()`` and ``load_state_dict``, and a write through ``tensor.data`` is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels import _ext
from cnnkernels.nn._fold import FoldsBatchNorm
from cnnkernels.nn.conv_same import Conv2dSame

AVAILABLE = _ext.module is not None and _ext.module.direct is not None
"""Whether there are calls past the dispatcher, which plans are made of."""


@dataclass(frozen=True)
class Plan:
    """The call ``function(x, *arguments)`` on images x of this many channels, and all that it follows from."""

    function: str  # of _ext.direct_ops
    arguments: tuple[Any, ...]
    channels: int
    snapshot: Any  # _C.Snapshot
    sources: tuple[Tensor, ...]
    padded: tuple[Conv2dSame, tuple[int, ...]] | None = None
    """The convolution whose padding follows from the size of x, and the padding that is in the arguments."""

    def holds(self) -> bool:
        return self.snapshot.holds()  # type: ignore[no-any-return]

    def fits(self, x: Tensor) -> bool:
        return self.padded is None or self.padded[0].padding_for(x) == self.padded[1]

    def takes(self, x: Tensor) -> bool:
        """x: a ``plain_image``."""
        return x.shape[1] == self.channels and not self.needs_gradient(x)

    def needs_gradient(self, x: Tensor) -> bool:
        return torch.is_grad_enabled() and (x.requires_grad or any(t.requires_grad for t in self.sources))

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = getattr(_ext.direct_ops, self.function)(x, *self.arguments)
        return y

    def step(self) -> Any:
        """The call for ``_C.direct.run``."""
        return getattr(_ext.direct_ops.bound, self.function)(*self.arguments)


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_CONVOLUTION = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


def snapshot_of(modules: Iterable[Any]) -> Any:
    """Whatever of these modules decides whether and what they compute, see ``_unit.untouched``; not of their children."""
    seen = _ext.module.Snapshot()  # type: ignore[union-attr]
    for m in modules:
        seen.type(m)
        attributes = vars(m)
        seen.item(attributes, "forward")
        for name in _HOOKS:
            seen.item(attributes, name)
            seen.items(attributes[name])
        names: Iterable[str]
        if isinstance(m, nn.Conv2d):
            names = _CONVOLUTION
        elif isinstance(m, nn.BatchNorm2d):
            names = ("training", "eps")
        else:
            names = [name for name in attributes if name[0] != "_"]
        for name in names:
            seen.item(attributes, name)
        for name in ("_parameters", "_buffers", "_modules"):
            seen.item(attributes, name)
            seen.items(attributes[name])
            for t in attributes[name].values():
                if isinstance(t, Tensor) and t.is_floating_point():
                    seen.tensor(t)
    return seen


def padded(conv: Any, x: Tensor) -> tuple[Conv2dSame, tuple[int, ...]] | None:
    """A plan's ``padded``, if this convolution sees images of x's size."""
    return (conv, conv.padding_for(x)) if type(conv) is Conv2dSame else None


def kept_plan(owner: FoldsBatchNorm, key: Any, x: Tensor, make: Callable[[], Plan | None | bool]) -> Plan | None:
    """The owner's plan of that name while it holds and fits x, else a new one.

    make: returns None for "not as things are", False for "never with this structure" (it is asked no more).
    """
    kept = owner._folds.get(key)
    if kept is not None:
        if kept is False or (kept.holds() and kept.fits(x)):
            return kept or None
        del owner._folds[key]
    plan = make()
    if plan is not None:
        owner._folds[key] = plan
        if isinstance(plan, Plan):
            plan.snapshot.item(owner._folds, key)  # for whoever builds on it: what drops it here drops it there
    return plan or None  # type: ignore[return-value]
