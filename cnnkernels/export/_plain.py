"""Networks computing by their ``torch.nn`` children, whatever backend they were given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from cnnkernels import _backend
from cnnkernels.models.network import SwitchedNetwork


@contextmanager
def plain(model: nn.Module) -> Iterator[None]:
    """Inside, the modules of this package are their children; ops that a forward calls itself stay calls."""
    switched = [m for m in model.modules() if isinstance(m, SwitchedNetwork)]
    before = [m.backend for m in switched]
    for m in switched:
        m.backend = None
    try:
        with _backend.use_backend("reference"):
            yield
    finally:
        for m, backend in zip(switched, before, strict=True):
            m.backend = backend
