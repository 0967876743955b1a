"""A process tests one device: the CPU (Triton interpreted, CUDA sources compiled for the CPU) or a GPU (./dev gpu)."""

import os

DEVICE = os.environ.get("CNNKERNELS_TEST_DEVICE", "cpu")
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is declared, so before any import of them

import pathlib
import subprocess
import sys

import pytest
import torch

import cnnkernels
from cnnkernels import _op

ROOT = pathlib.Path(__file__).resolve().parent.parent
torch.set_num_threads(2)


def pytest_collection_modifyitems(config, items):
    have_gpu = torch.cuda.is_available()
    for item in items:
        wants_gpu = item.get_closest_marker("gpu") is not None
        if wants_gpu and not have_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here; ./dev gpu runs these"))
        elif wants_gpu and DEVICE != "cuda":
            item.add_marker(pytest.mark.skip(reason="needs CNNKERNELS_TEST_DEVICE=cuda, as ./dev gpu sets"))


def build_host_cuda(*targets: str) -> pathlib.Path:
    """Builds targets of tests/host_cuda and returns the folder they are in."""
    import pybind11

    build = pathlib.Path(os.environ.get("CNNKERNELS_HOST_BUILD_DIR", ROOT / "build-host"))
    configure = [
        "cmake",
        "-S",
        str(ROOT),
        "-B",
        str(build),
        "-G",
        "Ninja",
        "-DCNNKERNELS_CUDA=0",
        "-DCNNKERNELS_HOST_CUDA=ON",
    ]
    configure += [f"-DTORCH_DIR={pathlib.Path(torch.__file__).parent}", f"-DPython_EXECUTABLE={sys.executable}"]
    configure += [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    for command in (configure, ["cmake", "--build", str(build), "--target", *targets]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.fail(f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}", pytrace=False)
    return build / "tests" / "host_cuda"


def cuda_headers() -> bool:
    """Whether the CUDA toolkit's headers are here, without which the CUDA sources cannot be compiled for the CPU."""
    import shutil

    nvcc = shutil.which("nvcc")
    return nvcc is not None or pathlib.Path("/usr/local/cuda/include/cuda_fp16.h").exists()


@pytest.fixture(scope="session")
def host_cuda_library() -> pathlib.Path:
    if not cuda_headers():
        pytest.skip("no CUDA toolkit: its headers are needed to compile the CUDA sources for the CPU")
    library = build_host_cuda("cnnkernels_hostcuda") / "libcnnkernels_hostcuda.so"
    torch.ops.load_library(str(library))
    return library


@pytest.fixture
def host_cuda(host_cuda_library, monkeypatch):
    """Inside, the ``cuda`` backend is the CUDA sources compiled for the CPU, and takes CPU tensors."""
    monkeypatch.setattr(_op.CudaTarget, "namespace", "cnnkernels_hostcuda")
    monkeypatch.setattr(_op.CudaTarget, "device_type", "cpu")
    for op in _op.REGISTRY.values():
        op.forget_availability()
    yield
    for op in _op.REGISTRY.values():
        op.forget_availability()


@pytest.fixture
def backend(request):
    """Parametrised indirectly with a backend's name; activates it and yields the name."""
    if request.param == "cuda" and DEVICE == "cpu":
        request.getfixturevalue("host_cuda")
    if request.param == "triton":
        pytest.importorskip("triton")
    with cnnkernels.use_backend(request.param):
        yield request.param


@pytest.fixture
def poison_empty():
    """Fills what torch.empty and its kind return with NaN, so that an output element nobody wrote shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
