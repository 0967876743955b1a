"""Names, codes and reference formulas of the activations that every fused op takes.

====================  ==========================================  ================================================
name                  act(x)                                      source
====================  ==========================================  ================================================
identity              x
relu                  max(x, 0)                                   Nair & Hinton, ICML 2010
relu6                 min(max(x, 0), 6)                           Howard et al. 2017, arXiv:1704.04861
leaky_relu(slope)     x if x >= 0 else slope * x (0.01)           Maas et al., ICML 2013
silu                  x * sigmoid(x)                              Elfwing et al. 2017, arXiv:1702.03118
hard_swish            x * relu6(x + 3) / 6                        Howard et al. 2019, arXiv:1905.02244
mish                  x * tanh(log(1 + exp(x)))                   Misra 2019, arXiv:1908.08681
sigmoid               1 / (1 + exp(-x))
hard_sigmoid          relu6(x + 3) / 6                            Howard et al. 2019, arXiv:1905.02244
====================  ==========================================  ================================================
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

CODES = {
    "identity": 0,
    "relu": 1,
    "relu6": 2,
    "leaky_relu": 3,
    "silu": 4,
    "hard_swish": 5,
    "mish": 6,
    "sigmoid": 7,
    "hard_sigmoid": 8,
}
"""The numbering of ``ck::Act`` in csrc/math/activation.h."""

_LEAKY = re.compile(r"leaky_relu\(([^()]*)\)")


@lru_cache(maxsize=256)
def parse(name: str) -> tuple[int, float]:
    """``"mish"`` -> (6, 0.0); ``"leaky_relu(0.1)"`` -> (3, 0.1).  ValueError for anything else."""
    if name == "leaky_relu":
        return CODES[name], 0.01
    if name in CODES:
        return CODES[name], 0.0
    match = _LEAKY.fullmatch(name)
    if match:
        try:
            slope = float(match.group(1))
        except ValueError:
            slope = math.nan
        if math.isfinite(slope):
            return CODES["leaky_relu"], slope
        raise ValueError(f"leaky_relu takes one finite slope, as in 'leaky_relu(0.1)', got {name!r}")
    raise ValueError(f"must be one of {', '.join(CODES)} or leaky_relu(slope), got {name!r}")


def check(op: str, name: object, argument: str = "act") -> tuple[int, float]:
    """``parse`` with the op's name in the error."""
    if not isinstance(name, str):
        raise TypeError(f"{op}: {argument} must be the name of an activation (str), got {type(name).__name__}")
    try:
        return parse(name)
    except ValueError as e:
        raise ValueError(f"{op}: {argument} {e}") from None


def reference(x: Tensor, name: str) -> Tensor:
    """act(x) as PyTorch computes it."""
    code, slope = parse(name)
    if code == CODES["leaky_relu"]:
        return F.leaky_relu(x, slope)
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "identity": Tensor.clone,
        "relu": F.relu,
        "relu6": F.relu6,
        "silu": F.silu,
        "hard_swish": _hard_swish,
        "mish": F.mish,
        "sigmoid": Tensor.sigmoid,
        "hard_sigmoid": lambda t: F.relu6(t + 3) / 6,  # F.hardsigmoid's gradient holds 1/6 in fp32 only
    }
    return functions[name](x)


def _hard_swish(x: Tensor) -> Tensor:
    if x.is_cuda and x.dtype is torch.float64:
        return x * F.relu6(x + 3) / 6  # PyTorch's kernel there holds 1/6 in fp32 (2.11)
    return F.hardswish(x)


def eager(x: Tensor, name: str, inplace: bool = False) -> Tensor:
    """act(x) by PyTorch's kernel for it, in one pass; into x itself if asked to."""
    code, slope = parse(name)
    if x.dtype is torch.float64:  # some kernels hold 1/6 in fp32
        return reference(x, name)
    if code == CODES["identity"]:
        return x if inplace else x.clone()
    if code == CODES["sigmoid"]:
        return x.sigmoid_() if inplace else x.sigmoid()
    if code == CODES["leaky_relu"]:
        return F.leaky_relu(x, slope, inplace)
    return _EAGER[code](x, inplace)


_EAGER: dict[int, Callable[[Tensor, bool], Tensor]] = {
    CODES["relu"]: lambda x, inplace: F.relu(x, inplace),
    CODES["relu6"]: lambda x, inplace: F.relu6(x, inplace),
    CODES["silu"]: lambda x, inplace: F.silu(x, inplace),
    CODES["hard_swish"]: lambda x, inplace: F.hardswish(x, inplace),
    CODES["mish"]: lambda x, inplace: F.mish(x, inplace),
    CODES["hard_sigmoid"]: lambda x, inplace: F.hardsigmoid(x, inplace),
}


def eager_grad(grad: Tensor, x: Tensor, name: str) -> Tensor:
    """grad * act'(x) by PyTorch's kernel for it; of sigmoid, whose kernel wants act(x), by two."""
    code, slope = parse(name)
    if x.dtype is torch.float64 or (
        code == CODES["sigmoid"] and x.dtype is not torch.float32
    ):  # act(x) would be rounded
        return (grad * reference_grad(x, name)).to(x.dtype)
    if code == CODES["identity"]:
        return grad.clone()
    if code == CODES["sigmoid"]:
        return torch.ops.aten.sigmoid_backward(grad, x.sigmoid())
    if code == CODES["leaky_relu"]:
        return torch.ops.aten.leaky_relu_backward(grad, x, slope, False)
    return _EAGER_GRAD[code](grad, x)


_EAGER_GRAD: dict[int, Callable[[Tensor, Tensor], Tensor]] = {
    CODES["relu"]: lambda grad, x: torch.ops.aten.threshold_backward(grad, x, 0),
    CODES["relu6"]: lambda grad, x: torch.ops.aten.hardtanh_backward(grad, x, 0, 6),
    CODES["silu"]: lambda grad, x: torch.ops.aten.silu_backward(grad, x),
    CODES["hard_swish"]: lambda grad, x: torch.ops.aten.hardswish_backward(grad, x),
    CODES["mish"]: lambda grad, x: torch.ops.aten.mish_backward(grad, x),
    CODES["hard_sigmoid"]: lambda grad, x: torch.ops.aten.hardsigmoid_backward(grad, x),
}


def reference_grad(x: Tensor, name: str) -> Tensor:
    """d act(x) / dx in plain, differentiable PyTorch, in fp32 for half types; PyTorch's own choice at the kinks."""
    code, slope = parse(name)
    x = x if x.dtype is torch.float64 else x.float()
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    if code == CODES["identity"]:
        return one
    if code == CODES["relu"]:
        return torch.where(x > 0, one, zero)
    if code == CODES["relu6"]:
        return torch.where((x > 0) & (x < 6), one, zero)
    if code == CODES["leaky_relu"]:
        return torch.where(x > 0, one, slope * one)
    if code == CODES["hard_swish"]:
        return torch.where(x < -3, zero, torch.where(x > 3, one, x / 3 + 0.5))
    if code == CODES["hard_sigmoid"]:
        return torch.where((x > -3) & (x < 3), one / 6, zero)
    s = torch.sigmoid(x)
    if code == CODES["sigmoid"]:
        return s * (1 - s)
    if code == CODES["silu"]:
        return s * (1 + x * (1 - s))
    t = torch.tanh(F.softplus(x))
    return t + x * s * (1 - t * t)
