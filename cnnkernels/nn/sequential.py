"""A Sequential that computes neighbouring conv, BatchNorm and activation children as one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from cnnkernels.nn import _enlarge, _unit
from cnnkernels.nn._fold import FoldsBatchNorm
from cnnkernels.nn._plan import Plan
from cnnkernels.nn._unit_plan import unit_plan
from cnnkernels.nn.activation import activation_name
from cnnkernels.nn.conv import ConvBNAct, can_fold, fold_conv
from cnnkernels.ops.upsample_add import upsample_add

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.Identity)


class FusedSequential(nn.Sequential, FoldsBatchNorm):
    """``nn.Sequential`` with the same children and keys; every (conv, BatchNorm, activation) runs as in ``ConvBNAct``.

    It gives blocks the parameter names of published checkpoints: ``FusedSequential(conv, bn, act)`` has the keys
    ``0.weight``, ``1.weight``, ``1.bias``, ...  A missing activation, or a BatchNorm without a convolution, is fine.
    ``residual`` is added to the result, in the last pass where that is possible (in that of the last child, if that is
    a ``FusedSequential``).
    """

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return self._run(x, 0, len(self._modules), residual)

    def _plan(self, x: Tensor) -> Plan | None:
        runs = list(self._runs(0, len(self._modules)))
        if len(runs) != 1 or runs[0][1] is None:
            return None
        _, conv, bn, act, _ = runs[0]
        return unit_plan(self, x, conv, bn, act)

    def part(self, start: int, stop: int) -> Part:
        """The children from ``start`` up to ``stop``, to be called as one."""
        return Part(self, start, stop)

    def _run(self, x: Tensor, start: int, stop: int, residual: Tensor | None = None) -> Tensor:
        for i, conv, bn, act, last in self._runs(start, stop):
            if conv is None and bn is None:
                if last and residual is not None:
                    return plus(act, x, residual)
                x = act(x)
            else:
                x = _unit.run(self, i, x, conv, bn, act, residual if last else None)
                residual = None if last else residual
        return x if residual is None else x + residual

    def _runs(self, begin: int, n: int) -> Iterator[tuple[int, Any, Any, Any, bool]]:
        """(index, conv, bn, act, whether it is the last one); any other child comes alone, as act."""
        children: list[Any] = list(self._modules.values())
        i = begin
        while i < n:
            start, conv, bn, act = i, None, None, None
            if isinstance(children[i], nn.Conv2d):
                conv, i = children[i], i + 1
            if i < n and isinstance(children[i], _NORMS[: 3 if conv is not None else 2]):
                bn, i = children[i], i + 1
            if (conv is None and bn is None) or (i < n and activation_name(children[i]) is not None):
                act, i = children[i], i + 1
            yield start, conv, bn, act, i == n

    def fuse(self) -> Self:
        """Every BatchNorm folded into the convolution before it and replaced by ``nn.Identity``; equal in evaluation.

        Children that have ``fuse()`` are replaced by its result.  Where nothing can be folded, returns itself.
        """
        names, children = list(self._modules), list(self._modules.values())
        for i, child in enumerate(children):
            if hasattr(child, "fuse"):
                children[i] = child.fuse()  # type: ignore[operator]
            elif i + 1 < len(children) and isinstance(child, nn.Conv2d) and can_fold(child, children[i + 1]):
                children[i : i + 2] = [fold_conv(child, children[i + 1]), nn.Identity()]
        if all(a is b for a, b in zip(children, self._modules.values(), strict=True)):
            return self
        new = type(self)()
        for name, child in zip(names, children, strict=True):
            new.add_module(name, child)
        new.training = self.training
        new._fused_from = (self,)
        return new

    def unfuse(self) -> Self:
        """The module on which ``fuse()`` was called, as it is now; itself if it is not the result of ``fuse()``."""
        return self._fused_from[0] if self._fused_from else self

    _fused_from: tuple[Self, ...] = ()  # in a tuple, so that it is no child


@dataclass(frozen=True)
class Part:
    """Neighbouring children of a ``FusedSequential``; no module, so that a network may hold it beside the whole."""

    whole: FusedSequential
    start: int
    stop: int

    def __call__(self, x: Tensor) -> Tensor:
        return self.whole._run(x, self.start, self.stop)

    def children(self) -> list[nn.Module]:
        return list(self.whole.children())[self.start : self.stop]


def plus(block: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    """``block(x) + residual``: in the block's last pass where nobody sees what it returns, and it takes a residual or is
    an ``nn.Upsample`` that repeats pixels.
    """
    if _unit.untouched(block, FusedSequential, ConvBNAct) and _unit.ordinary_call(x):
        return block(x, residual=residual)  # type: ignore[no-any-return]
    if _enlarge.repeats_pixels(block, x, residual):
        return upsample_add(x, residual)
    return block(x) + residual  # type: ignore[no-any-return]
