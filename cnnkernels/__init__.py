"""Fused CUDA, Triton and C++ kernels for convolutional networks in PyTorch."""

import torch as _torch  # the extension needs libtorch loaded  # noqa: F401

from cnnkernels import export, models, nn, ops
from cnnkernels._backend import record_backends, use_backend
from cnnkernels._explain import explain
from cnnkernels._tune import Measured, tune, tuning
from cnnkernels.optimize import optimize, restore

__version__ = "0.1.0"
__all__ = [
    "Measured",
    "explain",
    "export",
    "models",
    "nn",
    "ops",
    "optimize",
    "record_backends",
    "restore",
    "tune",
    "tuning",
    "use_backend",
]
