"""Argument checks that every op shares.  Messages say what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def fail(op: str, expected: str, got: object) -> NoReturn:
    raise ValueError(f"{op}: {expected}, got {got}")


def shape(t: Tensor) -> list[Any]:
    return list(t.shape)


def tensor(op: str, name: str, t: object, dim: int | None = None) -> None:
    """``t`` is a strided floating-point tensor of ``dim`` dimensions."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(t).__name__}")
    if t.dtype not in FLOATS:
        raise TypeError(f"{op}: {name} must be float32, float16, bfloat16 or float64, got {t.dtype}")
    if t.layout is not torch.strided:
        raise TypeError(f"{op}: {name} must be a dense (strided) tensor, got layout {t.layout}")
    if dim is not None and t.dim() != dim:
        layout = {4: " [N, C, H, W]", 2: " [N, C]", 1: ""}.get(dim, "")
        fail(op, f"{name} must have {dim} dimension{'s' if dim != 1 else ''}{layout}", shape(t))


def like(
    op: str, name: str, t: Tensor, x: Tensor, x_name: str = "x", dtypes: Sequence[torch.dtype] | None = None
) -> None:
    """``t`` lives where ``x`` lives and has x's dtype, or one of ``dtypes``."""
    if t.device != x.device:
        fail(op, f"{name} must be on {x_name}'s device {x.device}", t.device)
    allowed = dtypes or (x.dtype,)
    if t.dtype not in allowed:
        names = " or ".join(str(d) for d in dict.fromkeys(allowed))
        raise TypeError(f"{op}: {name} must be {names} ({x_name} is {x.dtype}), got {t.dtype}")


def channel_vector(op: str, name: str, t: object, x: Tensor, channels: Any, axis: str = "C") -> None:
    """``t`` is a per-channel parameter: [C], float32 or x's dtype, on x's device."""
    tensor(op, name, t)
    assert isinstance(t, Tensor)
    if t.dim() != 1 or t.shape[0] != channels:
        fail(op, f"{name} must be [{axis}] with {axis}={channels} (x is {shape(x)})", shape(t))
    like(op, name, t, x, dtypes=(torch.float32, x.dtype))


def same_shape(op: str, name: str, t: object, x: Tensor, what: str) -> None:
    tensor(op, name, t)
    assert isinstance(t, Tensor)
    if t.shape != x.shape:
        fail(op, f"{name} must have {what} {shape(x)}", shape(t))
    like(op, name, t, x)


def eps(op: str, value: object) -> None:
    """What is added to a denominator: a number of at least 0."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{op}: eps must be a float, got {type(value).__name__}")
    if not (value >= 0 and math.isfinite(value)):
        fail(op, "eps must be >= 0 and finite", value)


def acc_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which x's kernels accumulate and take per-channel parameters."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32
