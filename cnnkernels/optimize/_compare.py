"""Whether two modules compute the same, gradients and statistics included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def tolerance(dtype: torch.dtype) -> float:
    """The largest difference in units of the largest value: rounding, in networks of a hundred layers."""
    return _TOLERANCE.get(dtype, 0.0)


class _NoDropout(TorchFunctionMode):
    """Random zeros depend on the order of the elements in memory, so a comparison has to do without."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _DROPOUTS:
            return args[0] if args else (kwargs or {})["input"]
        return args[0].fill_(1) if name == "bernoulli_" else func(*args, **(kwargs or {}))


_DROPOUTS = frozenset(
    f"{kind}dropout{in_place}" for kind in ("", "feature_", "alpha_", "feature_alpha_") for in_place in ("", "_")
)


def without_dropout() -> AbstractContextManager[Any]:
    """Within it dropout and stochastic depth keep everything."""
    return _NoDropout()


class Differs(Exception):
    """How two results cannot be the same."""

    def __init__(self, why: str, error: float | None = None) -> None:
        super().__init__(why)
        self.error = error


def leaves(value: Any) -> list[Any]:
    """The tensors, and whatever else, in a result."""
    flat, _ = torch.utils._pytree.tree_flatten(value)
    return flat


def distance(y: Any, expected: Any) -> float:
    """The largest difference between the tensors of two results, each in units of the largest value expected.

    Differs for results of another structure, shape or dtype, and for numbers that are not finite in one of them only.
    """
    pairs = list(zip(leaves(y), leaves(expected), strict=False))
    if len(leaves(y)) != len(leaves(expected)):
        raise Differs(f"returns {len(leaves(y))} values instead of {len(leaves(expected))}")
    return max((_distance(a, b) for a, b in pairs), default=0.0)


def _distance(y: Any, expected: Any, floor: float = 0.0) -> float:
    if not isinstance(expected, Tensor):
        if type(y) is not type(expected) or y != expected:
            raise Differs(f"returns {y!r} instead of {expected!r}")
        return 0.0
    if not isinstance(y, Tensor) or y.shape != expected.shape or y.dtype != expected.dtype:
        got = f"{list(y.shape)} {y.dtype}" if isinstance(y, Tensor) else type(y).__name__
        raise Differs(f"returns {got} instead of {list(expected.shape)} {expected.dtype}")
    if expected.numel() == 0:
        return 0.0
    a, b = y.detach().double(), expected.detach().double()
    same = torch.equal(torch.isfinite(a), torch.isfinite(b))
    if not same:
        raise Differs("is finite where the other is not")
    a, b = (torch.nan_to_num(t, 0.0, 0.0, 0.0) for t in (a, b))
    largest = max(float(b.abs().max()), floor)
    difference = float((a - b).abs().max())
    return difference / largest if largest > 0 else difference


def compare_calls(plain: nn.Module, module: nn.Module, inputs: Sequence[Tensor], training: bool) -> float:
    """The largest difference between what the two make of the inputs.

    training: gradients of inputs and parameters and the buffers afterwards, too; buffers are as before in the end.
    Differs where the results cannot be the same, or where one of the two raises.
    """
    if not training:
        with torch.no_grad():
            expected = plain(*[x.clone() for x in inputs])
            return distance(attempt(module, *inputs), expected)
    parameters = [p for p in plain.parameters() if p.requires_grad]
    before = [b.clone() for b in plain.buffers()]
    results, directions = [], list[Tensor]()
    for contender in (plain, module):
        try:
            results.append(_trained(contender, inputs, parameters, list(plain.buffers()), directions))
        finally:
            with torch.no_grad():
                for buffer, old in zip(plain.buffers(), before, strict=True):
                    buffer.copy_(old)
    (y, gradients, buffers), (ours, our_gradients, our_buffers) = results
    error = distance(ours, y)
    # A mean that is zero but for rounding (behind a BatchNorm) is compared with the variances' size, a gradient that is (of a
    # bias before a BatchNorm) with the others'.
    largest = max((float(b.abs().max()) for b in buffers if b.is_floating_point() and b.numel()), default=0.0)
    error = max([error, *(_distance(a, b, largest) for a, b in zip(our_buffers, buffers, strict=True))])
    floor = 1e-2 * max((float(g.abs().max()) for g in gradients if g is not None and g.numel()), default=0.0)
    for ours_g, g in zip(our_gradients, gradients, strict=True):
        if (ours_g is None) != (g is None):
            raise Differs("a parameter has no gradient")
        if g is not None:
            error = max(error, 0.1 * _distance(ours_g, g, floor))  # sums over all pixels: a digit less
    return error


def attempt(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Its result; Differs where it raises: a kernel may refuse what the modules take."""
    try:
        return call(*args, **kwargs)
    except Exception as error:
        raise Differs(f"raises {type(error).__name__}: {error}".split("\n")[0]) from None


_KINKS = (0.0, 3.0, 6.0)
"""Values of ReLU, ReLU6, hard swish and hard sigmoid (times 6) where their slope jumps."""


def _directions(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Random gradients; zero where rounding decides on which side of a kink an output lies."""
    found = []
    for y in outputs:
        # Not randn_like, which draws in the order of the memory.
        direction = torch.randn(y.shape, dtype=y.dtype, device=y.device)
        near = 10 * torch.finfo(y.dtype).eps * float(y.detach().abs().max()) if y.numel() else 0.0
        for kink in _KINKS:
            direction[((y.detach() - kink).abs() <= near) & (y.detach() != kink)] = 0
        found.append(direction)
    return found


def _trained(
    module: nn.Module,
    inputs: Sequence[Tensor],
    parameters: Sequence[Tensor],
    buffers: Sequence[Tensor],
    directions: list[Tensor],
) -> tuple[Any, list[Tensor | None], list[Tensor]]:
    """Results, gradients of the inputs and parameters, buffers; the first contender sets the directions."""
    # One leaf for a tensor that is given twice: the plain graph reads one of the two.
    xs = {id(x): x.detach().clone(memory_format=torch.preserve_format) for x in inputs}
    differentiable = [x.requires_grad_() for x in xs.values() if x.is_floating_point()]
    # Copies of leaves may be written to in place.
    copies = {key: x * 1 if x.requires_grad else x for key, x in xs.items()}
    y = attempt(module, *(copies[id(x)] for x in inputs))
    outputs = [t for t in leaves(y) if isinstance(t, Tensor) and t.requires_grad]
    directions[:] = directions or _directions(outputs)
    if [(t.shape, t.dtype) for t in outputs] != [(t.shape, t.dtype) for t in directions]:
        return y, [None] * (len(differentiable) + len(parameters)), [b.clone() for b in buffers]
    wanted = [*differentiable, *parameters]
    gradients = [None] * len(wanted)
    if outputs:
        gradients = attempt(torch.autograd.grad, outputs, wanted, directions, allow_unused=True)
    return y, list(gradients), [b.clone() for b in buffers]
