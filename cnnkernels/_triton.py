"""Whether Triton can run, and how its kernels are declared so that they also run in the interpreter.

Kernels live in ``cnnkernels/ops/triton``.  They take raw pointers and sizes, use no libdevice and no block pointers,
and are decorated with ``@triton.jit``; with ``TRITON_INTERPRET=1`` set before the first import they run on CPU tensors.
"""

from __future__ import annotations

import importlib.util
import os


def interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def why_not(device_type: str) -> str | None:
    """Why Triton kernels cannot run on tensors of this device type; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (it comes with CUDA builds of torch; pip install triton)"
    if device_type == "cuda" or interpreting():
        return None
    return f"runs on cuda tensors (or on cpu with TRITON_INTERPRET=1), got {device_type}"
