"""Fused CUDA, Triton and C++ kernels for convolutional networks in PyTorch."""

import torch as _torch  # the extension needs libtorch loaded  # noqa: F401

from cnnkernels import ops
from cnnkernels._backend import record_backends, use_backend

__version__ = "0.1.0"
__all__ = ["ops", "record_backends", "use_backend"]
