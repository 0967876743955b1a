"""An optimised network: the class of somebody's network, with a program for its ``forward``."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from cnnkernels.optimize._graphs import Graphs, can_serve
from cnnkernels.optimize._pending import Joined, part, settled
from cnnkernels.optimize._trace import OPTIMIZED, CannotTrace
from cnnkernels.optimize.program import Program, Recipe, build


@dataclass
class State:
    """Beside a network's own attributes.  recipes, programs: by mode, ``training``.

    in_parts: whether forward is the network's own, in evaluation with fused parts in it: as of a program, its results have
        no gradient history unless an argument asks for one, and nothing that is pending (``_pending``) leaves it.
    """

    recipes: dict[bool, Recipe]
    in_parts: bool = False
    original: tuple[nn.Module, ...] = ()  # in a tuple, so that it is no child
    programs: dict[bool, Program] = field(default_factory=dict)
    graphs: Graphs | None = None  # CUDA graphs of calls in evaluation, if they are wanted

    def copied(self) -> State:
        """For a copy of the network, which has no original."""
        return State(self.recipes, self.in_parts, graphs=None if self.graphs is None else Graphs())

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
        graphs = self.__dict__[OPTIMIZED].graphs
        if graphs is not None and not kwargs and not self.training and self._has_no_history(args) and can_serve(args):
            return graphs(self, self._compute, args)
        return self._compute(*args, **kwargs)

    def _has_no_history(self, args: tuple[Any, ...]) -> bool:
        """Whether the results of this call in evaluation ask for no gradients."""
        if not torch.is_grad_enabled():
            return True
        wanted = any(isinstance(a, Tensor) and a.requires_grad for a in args)
        return self.__dict__[OPTIMIZED].programs.get(False) is not None and not wanted

    def _compute(self, *args: Any, **kwargs: Any) -> Any:
        state: State = self.__dict__[OPTIMIZED]
        program = state.programs.get(self.training)
        if program is None or kwargs or len(args) != program.recipe.arity or not program.holds():
            return self._own_forward(*args, **kwargs)
        if program.recipe.keeps_history or not torch.is_grad_enabled():
            return program.call(*args)
        if any(isinstance(a, Tensor) and a.requires_grad for a in args):
            return self._own_forward(*args, **kwargs)
        with torch.no_grad():
            return program.call(*args)

    def _own_forward(self, *args: Any, **kwargs: Any) -> Any:
        forward = super().forward
        if self.training or not self.__dict__[OPTIMIZED].in_parts:
            return forward(*args, **kwargs)
        wanted = any(isinstance(a, Tensor) and a.requires_grad for a in (*args, *kwargs.values()))
        with torch.set_grad_enabled(torch.is_grad_enabled() and wanted):
            return settled(forward(*args, **kwargs))

    def runs_program(self) -> bool:
        """Whether a call as the example's would run the program now."""
        program = self.__dict__[OPTIMIZED].programs.get(self.training)
        return program is not None and program.holds()

    def has_mode(self, training: bool) -> bool:
        return training in self.__dict__[OPTIMIZED].recipes

    def program(self, training: bool) -> Program | None:
        found: Program | None = self.__dict__[OPTIMIZED].programs.get(training)
        return found

    def drop_programs(self) -> None:
        """The network's own forward from now on, here and in the modules in it."""
        for module in self.modules():
            if isinstance(module, Optimized):
                state: State = module.__dict__[OPTIMIZED]
                state.recipes.clear()
                state.programs.clear()
                state.in_parts = False
                state.graphs = None
            elif isinstance(module, Joined):
                part(module)

    # ---- changes that no version counter of a tensor shows -------------------------------------------------------------

    def _forget(self) -> None:
        graphs = self.__dict__[OPTIMIZED].graphs
        if graphs is not None:
            graphs.forget()
        for program in self.__dict__[OPTIMIZED].programs.values():
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
        plain.__dict__.update({k: v for k, v in self.__dict__.items() if k != OPTIMIZED})
        return plain  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        if type(self).__bases__[0] is not Optimized:  # a parametrisation made another class of it
            derived = memo[id(self)] = type(self).__new__(type(self))
            derived.__dict__.update(copy.deepcopy({**self.__dict__, OPTIMIZED: State({})}, memo))
            return derived
        twin = copy.deepcopy(self._without_program(), memo)
        memo[id(self)] = attach(twin, self.__dict__[OPTIMIZED].copied())
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        return attach, (self._without_program(), self.__dict__[OPTIMIZED].copied())

    def _replicate_for_data_parallel(self) -> nn.Module:
        # Its children will be those of another device, which no program is for.
        replica: nn.Module = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica.__dict__[OPTIMIZED] = self.__dict__[OPTIMIZED].copied()
        return replica


def attach(model: nn.Module, state: State) -> nn.Module:
    """Makes the model an optimised one, in place."""
    cls = type(model)
    names = {"__module__": cls.__module__, "__qualname__": f"Optimized{cls.__qualname__}"}
    made = type(f"Optimized{cls.__name__}", (Optimized, cls), names)
    state.build(model)  # before it is one: building traces a copy, and copies of an optimised model are optimised
    model.__dict__[OPTIMIZED] = state
    model.__class__ = made
    return model


def _class_of_network(model: nn.Module) -> type[nn.Module]:
    """Also where somebody (FSDP, a parametrisation) derived a class from the one that ``attach`` made."""
    made = next(c for c in type(model).__mro__ if c.__bases__[0] is Optimized)
    return made.__bases__[1]


def detach(model: Optimized) -> None:
    """Makes it a plain one again, in place."""
    del model.__dict__[OPTIMIZED]
    model.__class__ = _class_of_network(model)  # type: ignore[assignment]


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
    state: State = model.__dict__[OPTIMIZED]
    if not state.original:
        plain = twin_of(model)
        for m in list(plain.modules()):
            if isinstance(m, Optimized):
                detach(m)
            elif isinstance(m, Joined):
                part(m)
        return plain
    original = state.original[0]
    for path, module in original.named_modules():
        now = model.get_submodule(path)
        for tensors, current in ((module._parameters, now._parameters), (module._buffers, now._buffers)):
            tensors.update({name: current[name] for name in tensors if name in current})
    return original
