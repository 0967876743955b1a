"""The types of the contract table.

``tests/cases/<op>.py`` adds the op's rows; ``tests/test_contract.py`` runs every row on every backend, dtype, layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LAYOUTS = ("nchw", "channels_last", "sliced", "expanded", "permuted")
HALF = (torch.float16, torch.bfloat16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def rand(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.rand(shape, generator=generator(seed), dtype=torch.float64) * (high - low) + low


def steps(*shape: int, seed: int = 0, low: int = -3, high: int = 3, step: float = 1.0) -> Tensor:
    """Random multiples of ``step`` from low * step to high * step: sums of their products are exact, even in bf16.

    Cases whose activation has kinks use them: no rounding can then move a value to the other side of a kink.
    """
    return torch.randint(low, high + 1, shape, generator=generator(seed)).double() * step


def as_layout(t: Tensor, layout: str) -> Tensor:
    """t's values (for "expanded": its first channel repeated) in another memory layout."""
    if layout == "nchw":
        return t.contiguous()
    if layout == "channels_last":
        return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t.contiguous()
    if layout == "sliced":  # an inner part of a larger tensor, starting at an odd offset
        big = torch.full([s + 3 for s in t.shape], float("nan"), dtype=t.dtype, device=t.device)
        view = big[tuple(slice(1, 1 + s) for s in t.shape)]
        return view.copy_(t)
    if layout == "expanded":  # stride 0 over channels
        return t[:, :1].contiguous().expand_as(t) if t.dim() > 1 else t[:1].expand_as(t)
    if layout == "permuted":  # dense, but in an order that is neither NCHW nor channels_last
        order = (2, 0, 3, 1) if t.dim() == 4 else tuple(reversed(range(t.dim())))
        inverse = [order.index(i) for i in range(t.dim())]
        return t.permute(order).contiguous().permute(inverse)
    raise ValueError(layout)


@dataclass(frozen=True)
class Case:
    """One valid call.  ``args()`` are fp64 CPU tensors and plain values, the same at every call.

    ``data`` are the positions of the tensors that take the dtype and layout under test (x, grad, residual); other
    tensors are parameters: they take the dtype if ``params_follow`` is set, else fp32 (fp64 in the fp64 runs).
    """

    op: str
    id: str
    args: Callable[[], tuple[Any, ...]]
    data: tuple[int, ...] = (0,)
    follow: tuple[int, ...] = ()  # parameters that must have x's dtype (weights)
    backends: tuple[str, ...] = ("cpu", "cuda", "triton", "reference")
    layouts: tuple[str, ...] = LAYOUTS
    slow: bool = False  # too slow for the Triton interpreter: skipped there, and only there

    def build(self, dtype: torch.dtype, layout: str = "nchw", device: str = "cpu") -> tuple[Any, ...]:
        acc = torch.float64 if dtype is torch.float64 else torch.float32
        out = []
        for i, a in enumerate(self.args()):
            if isinstance(a, Tensor) and a.is_floating_point():
                if i in self.data:
                    a = as_layout(a.to(device=device, dtype=dtype), layout)
                else:
                    a = a.to(device=device, dtype=dtype if i in self.follow else acc)
            elif isinstance(a, Tensor):
                a = a.to(device)
            out.append(a)
        return tuple(out)


@dataclass(frozen=True)
class Bad:
    """One call that must raise before anything runs, through the public function and through torch.ops."""

    op: str
    id: str
    args: Callable[[], tuple[Any, ...]]
    error: type[Exception]
    match: str
    public: Callable[..., Any] | None = (
        None  # called with the same arguments; None if the public door cannot express it
    )


@dataclass
class OpCases:
    cases: list[Case]
    bad: list[Bad]
    # dtype -> (rtol, atol) of every output against the fp64 oracle on the same (rounded) inputs
    tolerance: dict[torch.dtype, tuple[float, float]]
    # the same for gradients; None: the op is not differentiable
    grad_tolerance: dict[torch.dtype, tuple[float, float]] | None
    # why finite differences do not apply; None: gradcheck runs
    no_gradcheck: str | None = None


# One rounding to the output type, plus fp32 arithmetic of a few operations.
ELEMENTWISE = {
    torch.float64: (1e-12, 1e-12),
    torch.float32: (2e-6, 2e-6),
    torch.float16: (1e-3, 1e-4),
    torch.bfloat16: (8e-3, 1e-4),
}
