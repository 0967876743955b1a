"""docs/gpu-status.md names the kernels that there are."""

from __future__ import annotations

from . import gpu_status
from .build_tree import ROOT


def test_page_is_current():
    assert gpu_status.PAGE.read_text() == gpu_status.page(), "python -m tests.gpu_status"


def test_every_kernel_is_found():
    cuda = "".join(f.read_text() for f in (ROOT / "csrc" / "cuda").glob("*.cu*"))
    assert len(gpu_status.cuda_kernels()) == cuda.count("__global__") > 20
    triton = "".join(f.read_text() for f in (ROOT / "cnnkernels" / "ops" / "triton").glob("*.py"))
    kernels = [name for _, name in gpu_status.triton_kernels()]
    assert len(kernels) == len(set(kernels)) and kernels
    assert all(f"{name}[" in triton for name in kernels)  # launched
