"""Modules that wait for the next one: neighbours are computed as one unit in a forward that nobody knows.

A convolution that waits returns a ``Pending``, which stands for its result.  The last module of the unit computes all of it at
once; whatever else looks at a ``Pending`` makes it compute what it stands for, by the modules themselves.  So the values are
right in whatever order a forward calls them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from cnnkernels.nn import _unit
from cnnkernels.optimize._leaves import has_hooks, view_as
from cnnkernels.optimize.program import Program, Recipe, build

_RECIPE, _PROGRAM = "_cnnkernels_recipe", "_cnnkernels_program"


class Pending(Tensor):
    """``modules``, one after the other, of x; without gradients."""

    waiting: tuple[nn.Module, ...]
    argument: Tensor
    versions: list[tuple[Tensor, int]]
    result: Tensor | None

    @staticmethod
    def of(modules: tuple[nn.Module, ...], x: Tensor) -> Pending:
        new: Any = Tensor._make_subclass(Pending, torch.empty(0))
        sources = (t for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None)
        new.waiting, new.argument, new.result = modules, x, None
        new.versions = [(t, t._version) for t in (x, *sources)]
        return new  # type: ignore[no-any-return]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*settled(args), **settled(kwargs or {}))

    def settle(self) -> Tensor:
        if self.result is None:
            if not self.unchanged():
                raise RuntimeError(
                    "optimize: what a convolution was called with has changed before its result was read; "
                    "cnnkernels.restore(model) gives a network that does not put convolutions off"
                )
            y = self.argument
            with torch.no_grad():
                for m in self.waiting:
                    y = plain_view(m)(y)
            self.result = y
        return self.result

    def unchanged(self) -> bool:
        return all(t._version == version for t, version in self.versions)


def settled(values: Any) -> Any:
    """The values with tensors for whatever is pending in them."""
    return tree_map_only(Pending, Pending.settle, values)


class Joined(nn.Module):
    """Base of the classes of modules that are part of a unit: ``class JoinedX(Waits or Ends, X)``."""

    def _attributes(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != _PROGRAM}

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        twin = memo[id(self)] = type(self).__new__(type(self))
        vars(twin).update(copy.deepcopy(self._attributes(), memo))
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        if type(self).__bases__[0] not in (Waits, Ends):  # theirs to say who made another class of it
            return super().__reduce_ex__(protocol)
        base, cls = _classes(self)
        return _unpickled, (base, cls), self._attributes()


class Waits(Joined):
    """The first of a unit, or one in its middle."""

    def forward(self, x: Any) -> Any:
        if type(x) is Pending:
            longer = _put_off(self, x)
            return super().forward(x.settle()) if longer is None else longer
        if (
            torch.compiler.is_compiling()
            or not _unit.ordinary_call(x)
            or x.dim() != 4
            or torch.is_autocast_enabled(x.device.type)
            or any(t.is_inference() for t in (x, *self._parameters.values()) if t is not None)
            or (torch.is_grad_enabled() and (x.requires_grad or _wants_gradient(self)))
            or not _as_joined(self)
        ):
            return super().forward(x)
        return Pending.of((self,), x)


class Ends(Joined):
    """The last of a unit: it computes the others, too."""

    def forward(self, x: Any) -> Any:
        if type(x) is not Pending:
            return super().forward(x)
        y = _joint(self, x)
        if y is None:
            return super().forward(x.settle())
        if getattr(self, "inplace", False):
            x.result = y  # as the activation in place leaves it
        return y

    def _forget(self) -> None:
        program: Program | None = vars(self).get(_PROGRAM, (None, None))[1]
        if program is not None:
            program.forget()

    def train(self, mode: bool = True) -> Any:
        self._forget()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        vars(self).pop(_PROGRAM, None)
        return super()._apply(fn, recurse)


def _as_joined(module: nn.Module) -> bool:
    """Whether it has no hooks, and nobody (parametrisation, say) made another class of it."""
    return type(module).__bases__[0] in (Waits, Ends) and not has_hooks(module)


def _wants_gradient(module: nn.Module) -> bool:
    return any(p is not None and p.requires_grad for p in module._parameters.values())


def _may_join(module: nn.Module, x: Pending) -> bool:
    """Whether the unit may go on with this module: evaluation, no gradients, nobody watching."""
    return (
        x.result is None
        and not (module.training and isinstance(module, nn.BatchNorm2d))
        and not (torch.is_grad_enabled() and _wants_gradient(module))
        and _as_joined(module)
        and _unit.ordinary_call(x.argument)
    )


def _put_off(module: nn.Module, x: Pending) -> Pending | None:
    return Pending.of((*x.waiting, module), x.argument) if _may_join(module, x) and x.unchanged() else None


def _joint(last: Ends, x: Pending) -> Tensor | None:
    """All of the unit at once; None where it has to be by the modules."""
    if not _may_join(last, x) or not x.unchanged():
        return None
    modules, program = vars(last).get(_PROGRAM, (None, None))
    if modules != x.waiting:
        vars(last).pop(_PROGRAM, None)  # the views in the unit are copied with all that is in them
        program = build(in_a_row((*x.waiting, last)), vars(last)[_RECIPE])
        vars(last)[_PROGRAM] = x.waiting, program
    with torch.no_grad():
        return program.call(x.argument)  # type: ignore[no-any-return]


# ---- changing classes --------------------------------------------------------------------------------------------------------


_MADE: dict[tuple[type[Joined], type[nn.Module]], type[Any]] = {}


def _class(base: type[Joined], cls: type[nn.Module]) -> type[Any]:
    if (base, cls) not in _MADE:
        names = {"__module__": cls.__module__, "__qualname__": f"Joined{cls.__qualname__}"}
        _MADE[base, cls] = type(f"Joined{cls.__name__}", (base, cls), names)
    return _MADE[base, cls]


def _classes(module: nn.Module) -> tuple[type[Joined], type[nn.Module]]:
    """What the module's class, or the one that somebody derived from it, was made of."""
    joined = next(c for c in type(module).__mro__ if c.__bases__[0] in (Waits, Ends))
    return joined.__bases__  # type: ignore[return-value]


def plain_view(module: nn.Module) -> Any:
    """The module, as one of the class that it was before it was joined."""
    return view_as(_classes(module)[1], module) if isinstance(module, Joined) else module


def in_a_row(modules: Sequence[nn.Module]) -> nn.Sequential:
    """What a unit computes, in evaluation."""
    row = nn.Sequential(*map(plain_view, modules))
    row.training = False  # its own flag: eval() would change theirs
    return row


def join(modules: Sequence[nn.Module], recipe: Recipe) -> None:
    """Makes them a unit, in place.  recipe: of the program of ``in_a_row(modules)``."""
    *waiting, last = modules
    for module in waiting:
        module.__class__ = _class(Waits, type(module))
    vars(last)[_RECIPE] = recipe
    last.__class__ = _class(Ends, type(last))


def _unpickled(base: type[Joined], cls: type[nn.Module]) -> nn.Module:
    made: Any = _class(base, cls)
    return made.__new__(made)  # type: ignore[no-any-return]


def part(module: Joined) -> None:
    """Makes it an ordinary one again, in place; where a parametrisation derived a class from its class, it is one already."""
    for name in (_RECIPE, _PROGRAM):
        vars(module).pop(name, None)
    if type(module).__bases__[0] in (Waits, Ends):
        module.__class__ = _classes(module)[1]  # type: ignore[assignment]
