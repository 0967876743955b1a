"""What the exporters ask of a model and of the example that they trace it with."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


def checked(name: str, model: Any, example: Any, dynamic_batch: bool) -> tuple[Tensor, ...]:
    """The positional arguments; for any number of images at least two, because a trace takes a size of 1 for a constant.

    name: of the public function, for errors.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name}: model must be a torch.nn.Module, got {type(model).__name__}")
    if model.training:
        raise ValueError(f"{name}: the model must be in evaluation: model.eval()")
    args = tuple(example) if isinstance(example, (tuple, list)) else (example,)
    for a in args:
        if not isinstance(a, Tensor):
            raise TypeError(f"{name}: example must be a tensor or a tuple of tensors, got {type(a).__name__}")
    if not args:
        raise ValueError(f"{name}: example must have at least one tensor, got none")
    if not dynamic_batch:
        return args
    batches = {a.shape[0] if a.dim() else None for a in args}
    if len(batches) != 1 or batches <= {None, 0}:
        shapes = ", ".join(str(list(a.shape)) for a in args)
        raise ValueError(
            f"{name}: for any batch size all tensors must begin with one size, 1 or more, got {shapes}; or dynamic_batch=False"
        )
    return tuple(a.repeat(2, *[1] * (a.dim() - 1)) for a in args) if batches == {1} else args


def dynamic_shapes(model: nn.Module, args: tuple[Tensor, ...]) -> Any:
    """For ``torch.export.export``: the first size of every argument is the batch."""
    batch = torch.export.Dim("batch")
    bound = inspect.signature(model.forward).bind(*args).arguments  # forward may collect them: *args
    return tree_map(lambda _: {0: batch}, dict(bound))
