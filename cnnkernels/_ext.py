"""Loads the compiled extension once and remembers why it could not be loaded."""

from __future__ import annotations

from types import ModuleType

import torch

module: ModuleType | None = None
"""``cnnkernels._C``, or None if it is not there."""

error: str | None = None
"""Why ``module`` is None, in one sentence a user can act on."""

try:
    from cnnkernels import _C as module  # type: ignore[attr-defined, no-redef]
except ImportError as e:
    if isinstance(e, ModuleNotFoundError) or "cannot import name '_C'" in str(e):
        error = "the compiled extension is not built: run `pip install -e .` in the cnnkernels folder"
    else:
        error = (
            f"the compiled extension does not load beside torch {torch.__version__} ({e}): "
            "run `pip install -e .` again to rebuild it"
        )


native_ops = torch.ops.cnnkernels_native
"""The extension's ops; their kernels are chosen by device."""

direct_ops = getattr(module, "direct", None) or native_ops
"""The same ops for plain CPU tensors, past the dispatcher, where this PyTorch can hand tensors over that way."""

direct_cuda_ops = getattr(getattr(module, "direct", None), "cuda", None)
"""The same for plain CUDA tensors; None where it cannot be."""


def has_kernel(native: str, device_type: str, namespace: str = "cnnkernels_native") -> bool:
    """Whether there is a kernel of this native op for this device type ("cpu" or "cuda")."""
    if module is None or not hasattr(getattr(torch.ops, namespace), native):
        return False
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device_type)
    return key is not None and bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"{namespace}::{native}", key))
