"""One op's answers on one device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from cnnkernels.choice import key, measure, store

_MAX_ANSWERS = 1024  # shapes may change with every call


class Op(Protocol):
    name: str

    def default_backend(self, device_type: str) -> str: ...

    def candidates(self, args: tuple[Any, ...]) -> dict[str, Callable[[], Any]]:
        """Every backend that can run these arguments, as a call."""


class Chooser:
    """``chooser(args)`` is the backend for these arguments: the one measured to be the fastest, else the default."""

    def __init__(self, op: Op, device: torch.device, choices: dict[str, str]) -> None:
        self.op = op
        self.device = device
        self.default = op.default_backend(device.type)
        self._choices = choices
        self._answers: dict[Any, str] = {}

    def __call__(self, args: Sequence[Any]) -> str:
        quick = key.quick(args)
        try:
            answer = self._answers.get(quick)
        except TypeError:  # an argument without a hash is one that check refuses
            return self.default
        return answer if answer is not None else self._find(quick, tuple(args))

    def _find(self, quick: Any, args: tuple[Any, ...]) -> str:
        name = key.text(args)
        answer = self._choices.get(name)
        if answer is None:
            if store.tuning and measure.possible(self.device):
                answer = self._measure(name, args)
            else:
                answer = self.default
                if store.tuning:  # a later call may be measured
                    return answer
        elif answer != self.default and answer not in self.op.candidates(args):
            answer = self.default  # of a table from another build
        if len(self._answers) >= _MAX_ANSWERS:
            self._answers.clear()
        self._answers[quick] = answer
        return answer

    def _measure(self, name: str, args: tuple[Any, ...]) -> str:
        candidates = self.op.candidates(args)
        if len(candidates) == 1:
            return self.default
        with torch.no_grad():
            times = measure.seconds(candidates, self.device)
        answer = measure.winner(times, self.default)
        store.known(self.device).learn(self.op.name, name, answer)
        for listener in listeners:
            listener(self.op.name, name, answer, times)
        return answer


listeners: list[Callable[[str, str, str, dict[str, float]], None]] = []
"""Called with op, key, backend and times of every measurement."""


def chooser_for(op: Op, device: torch.device) -> Chooser | None:
    """None if all that is known of this op on this device is that the default is the fastest."""
    if device.type not in ("cpu", "cuda"):
        return None
    known = store.known(device).choices
    if store.tuning:
        return Chooser(op, device, known.setdefault(op.name, {}))
    choices, default = known.get(op.name, {}), op.default_backend(device.type)
    return Chooser(op, device, choices) if any(b != default for b in choices.values()) else None
