"""Max pooling without the indices of the maxima, where no gradient asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels import _ext
from cnnkernels.nn import _unit
from cnnkernels.nn._plan import Plan, snapshot_of

_AVAILABLE = _ext.has_kernel("max_pool", "cpu")


def _pair(sizes: Any) -> Sequence[int]:
    return sizes if isinstance(sizes, (tuple, list)) else (sizes, sizes)


class MaxPool2d(nn.MaxPool2d):
    """``torch.nn.MaxPool2d``, and the same values; in evaluation on a CPU by a kernel that writes nothing but them.

    PyTorch's own keeps an eight-byte index for every maximum even where no gradient is wanted.  Against it, float32,
    channels_last, windows of 3 x 3 at stride 2: see ``benchmarks/bench_max_pool.py``.  All arguments as there; whatever
    the kernel does not take (NCHW, other dtypes, dilation, ``return_indices``) runs as there.
    """

    def forward(self, x: Tensor) -> Any:
        y = self._without_indices(x)
        return super().forward(x) if y is None else y

    def _without_indices(self, x: Tensor) -> Tensor | None:
        arguments = self._arguments()
        if arguments is None or not _unit.plain_image(x) or (x.requires_grad and torch.is_grad_enabled()):
            return None
        try:
            y: Tensor = _ext.direct_ops.max_pool(x, *arguments)
        except RuntimeError:
            return None  # a window that does not fit: torch says so
        return y

    def _arguments(self) -> tuple[Any, ...] | None:
        """Of the kernel; None for what it does not do."""
        if not _AVAILABLE or self.return_indices or self.dilation not in (1, (1, 1)):
            return None
        return _pair(self.kernel_size), _pair(self.stride), _pair(self.padding), self.ceil_mode

    def _plan(self, x: Tensor) -> Plan | None:
        arguments = self._arguments()
        return None if arguments is None else Plan("max_pool", arguments, x.shape[1], snapshot_of([]), ())
