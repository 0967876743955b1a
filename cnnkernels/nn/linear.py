"""The linear layer of a few images in evaluation on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cnnkernels import _ext
from cnnkernels.nn import _unit

_AVAILABLE = _ext.has_kernel("linear", "cpu")
_MOST_ROWS = 16  # of x: up to here reading the weights is what takes the time


class Linear(nn.Linear):
    """``torch.nn.Linear``, and the same sums; for up to 16 rows on a CPU by a kernel that reads the weights once, on all cores.

    A classifier behind a network sees one row an image, and waits for its weights to come from memory.  PyTorch's product
    with one row runs on one core.  See ``benchmarks/bench_linear.py``.  All arguments as there; whatever the kernel does
    not take (gradients, other dtypes, more rows, more dimensions) runs as there.
    """

    def forward(self, x: Tensor) -> Tensor:
        y = self._from_memory(x)
        return super().forward(x) if y is None else y

    def _from_memory(self, x: Tensor) -> Tensor | None:
        weight, bias = self.weight, self.bias
        if (
            not _AVAILABLE
            or not _unit.plain_tensor(x)
            or x.dim() != 2
            or not 0 < x.shape[0] <= _MOST_ROWS
            or type(weight) is not nn.Parameter
            or (bias is not None and type(bias) is not nn.Parameter)
            or (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)))
        ):
            return None
        try:
            y: Tensor = _ext.direct_ops.linear(x, weight, bias)
        except RuntimeError:
            return None  # other sizes, dtypes or strides: torch converts, or says what is wrong
        return y
