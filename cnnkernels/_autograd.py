"""Gradients: the quick way through autograd for plain eager calls, and the gradient of a reference.

``torch.library.register_autograd`` serves the dispatcher (compile, export, modes) at about 18 us a call.  An
``autograd.Function`` around the same formulas takes half of that, which at the sizes of a mobile network's last stages is
a good part of the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cnnkernels._tf32 import without_tf32


def eager_function(
    name: str, run: Callable[..., Any], save: Callable[..., None], backward: Callable[..., Any]
) -> type[torch.autograd.Function]:
    """An ``autograd.Function`` whose forward is ``run`` and whose save and backward are those of the registered op."""

    def forward(ctx: Any, *args: Any) -> Any:
        output = run(*args)
        save(ctx, args, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(f"cnnkernels_{name}", (torch.autograd.Function,), members)


def save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Keeps every input, for ``reference_backward``."""
    ctx.save_for_backward(*(a for a in inputs if isinstance(a, Tensor)))
    ctx.is_tensor = [isinstance(a, Tensor) for a in inputs]
    ctx.others = [None if isinstance(a, Tensor) else a for a in inputs]


def reference_backward(reference: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    """A backward formula that differentiates ``reference`` itself, and may be differentiated in turn."""

    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        create_graph = torch.is_grad_enabled()
        saved = iter(ctx.saved_tensors)
        inputs = [next(saved) if t else other for t, other in zip(ctx.is_tensor, ctx.others, strict=True)]
        wanted = [t and n for t, n in zip(ctx.is_tensor, ctx.needs_input_grad, strict=True)]
        with torch.enable_grad(), without_tf32():
            # A fresh view of each input: differentiating to it gives this op's own gradient, not that of its producers.
            views = [a.view_as(a) if w else a for a, w in zip(inputs, wanted, strict=True)]
            outputs = reference(*views)
            outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
            pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None and o.requires_grad]
            results = iter(_grad(pairs, [v for v, w in zip(views, wanted, strict=True) if w], create_graph))
        return tuple(next(results) if w else None for w in wanted)

    return backward


def _grad(pairs: Sequence[tuple[Tensor, Tensor]], inputs: list[Tensor], create_graph: bool) -> Sequence[Tensor | None]:
    if not pairs:
        return [None] * len(inputs)
    outputs, grads = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, inputs, grads, create_graph=create_graph, allow_unused=True)
