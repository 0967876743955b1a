"""An optimised network: the class of somebody's network, with a program for its ``forward``."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from cnnkernels.optimize._trace import CannotTrace
from cnnkernels.optimize.program import Program, Recipe, build

_STATE = "_cnnkernels_optimized"


@dataclass
class State:
    """Beside a network's own attributes.  recipes, programs: by mode, ``training``."""

    recipes: dict[bool, Recipe]
    original: tuple[nn.Module, ...] = ()  # in a tuple, so that it is no child
    programs: dict[bool, Program] = field(default_factory=dict)

    def build(self, model: nn.Module) -> None:
        """A program for each mode; a mode without one (its forward is another one) runs the network's forward."""
        for training, recipe in self.recipes.items():
            with in_mode(model, training):
                try:
                    self.programs[training] = build(model, recipe)
                except CannotTrace:
                    self.programs.pop(training, None)


class in_mode:
    """The model in a mode, for a while; every module's own flag comes back."""

    def __init__(self, model: nn.Module, training: bool) -> None:
        self.model, self.training = model, training

    def __enter__(self) -> None:
        self.flags = [(m, m.training) for m in self.model.modules()]
        if self.model.training != self.training:
            self.model.train(self.training)

    def __exit__(self, *error: object) -> None:
        for module, flag in self.flags:
            module.training = flag


class Optimized(nn.Module):
    """Base of the classes that ``optimize`` makes: ``class OptimizedX(Optimized, X)``.

    Its attributes are a network's own; ``forward`` runs the program of the mode it is in, as long as what the program follows
    from is unchanged (classes and hooks of the modules, their children, their modes) and the arguments are as many as the
    example's.  Else it is the network's own ``forward``, as it is in mode "infer" for arguments that need a gradient.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        state: State = self.__dict__[_STATE]
        program = state.programs.get(self.training)
        if program is None or kwargs or len(args) != program.recipe.arity or not program.holds():
            return super().forward(*args, **kwargs)
        if program.recipe.keeps_history or not torch.is_grad_enabled():
            return program.call(*args)
        if any(isinstance(a, Tensor) and a.requires_grad for a in args):
            return super().forward(*args, **kwargs)
        with torch.no_grad():
            return program.call(*args)

    def runs_program(self) -> bool:
        """Whether a call as the example's would run the program now."""
        program = self.__dict__[_STATE].programs.get(self.training)
        return program is not None and program.holds()

    def has_mode(self, training: bool) -> bool:
        return training in self.__dict__[_STATE].recipes

    def program(self, training: bool) -> Program | None:
        found: Program | None = self.__dict__[_STATE].programs.get(training)
        return found

    def drop_programs(self) -> None:
        """The network's own forward from now on, here and in the modules in it."""
        for module in self.modules():
            if isinstance(module, Optimized):
                state: State = module.__dict__[_STATE]
                state.recipes.clear()
                state.programs.clear()

    # ---- changes that no version counter of a tensor shows -------------------------------------------------------------

    def _forget(self) -> None:
        for program in self.__dict__[_STATE].programs.values():
            program.forget()

    def train(self, mode: bool = True) -> Self:
        self._forget()
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._forget()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args, **kwargs)

    # ---- copies ----------------------------------------------------------------------------------------------------------

    def _without_program(self) -> nn.Module:
        """The same attributes as a plain network."""
        plain: Any = object.__new__(type(self).__bases__[1])
        plain.__dict__.update({k: v for k, v in self.__dict__.items() if k != _STATE})
        return plain  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        twin = copy.deepcopy(self._without_program(), memo)
        memo[id(self)] = attach(twin, State(self.__dict__[_STATE].recipes))
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _attached, (self._without_program(), self.__dict__[_STATE].recipes)

    def _replicate_for_data_parallel(self) -> nn.Module:
        # Its children will be those of another device, which no program is for.
        replica: nn.Module = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica.__dict__[_STATE] = State(self.__dict__[_STATE].recipes)
        return replica


def _attached(model: nn.Module, recipes: dict[bool, Recipe]) -> nn.Module:
    return attach(model, State(recipes))


def attach(model: nn.Module, state: State) -> nn.Module:
    """Makes the model an optimised one, in place."""
    cls = type(model)
    names = {"__module__": cls.__module__, "__qualname__": f"Optimized{cls.__qualname__}"}
    made = type(f"Optimized{cls.__name__}", (Optimized, cls), names)
    state.build(model)  # before it is one: building traces a copy, and copies of an optimised model are optimised
    model.__dict__[_STATE] = state
    model.__class__ = made
    return model


def detach(model: Optimized) -> None:
    """Makes it a plain one again, in place."""
    del model.__dict__[_STATE]
    model.__class__ = type(model).__bases__[1]


def twin_of(model: nn.Module) -> nn.Module:
    """A copy of the structure: modules of its own on the same parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    memo: dict[int, Any] = {id(t): t for t in tensors}
    return copy.deepcopy(model, memo)


def restore(model: nn.Module) -> nn.Module:
    """The network that ``optimize`` was given, with the parameters and buffers that ``model`` has now.

    It is the very object, unless ``model`` is a copy of what ``optimize`` returned, or was given a dtype there: then a plain
    network is made of it.
    Modes (``training``) are as that network's owner left them.  ValueError for a model that is not optimised.
    """
    if not isinstance(model, Optimized):
        raise ValueError(f"restore: {type(model).__name__} is not what cnnkernels.optimize returned")
    state: State = model.__dict__[_STATE]
    if not state.original:
        plain = twin_of(model)
        for m in list(plain.modules()):
            if isinstance(m, Optimized):
                detach(m)
        return plain
    original = state.original[0]
    for path, module in original.named_modules():
        now = model.get_submodule(path)
        for tensors, current in ((module._parameters, now._parameters), (module._buffers, now._buffers)):
            tensors.update({name: current[name] for name in tensors if name in current})
    return original
