"""A process tests one device: the CPU (Triton interpreted, CUDA sources compiled for the CPU) or a GPU (./dev gpu)."""

import os
from collections import Counter

DEVICE = os.environ.get("CNNKERNELS_TEST_DEVICE", "cpu")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin make tests crawl on a busy machine
os.environ["CNNKERNELS_CACHE"] = "off"  # whatever was measured on this machine, tests run on the default backend
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is declared, so before any import of them

import pytest
import torch

import cnnkernels
from cnnkernels import _ext, _op

from . import build_tree

HAVE_CUDA_HEADERS = build_tree.cuda_include() is not None
torch.set_num_threads(2)


UNITS_PER_FILE = 40


def group_for_xdist(items):
    """Hands the tests of a long file out in runs of neighbours (``-n 2 --dist loadgroup``).

    For each test that ends pytest-xdist counts through everything it ever handed out: one by one, 40,000 tests keep a core
    busy with that alone.
    """
    tests = Counter(item.path for item in items)
    seen = Counter()
    for item in items:
        seen[item.path] += 1
        if tests[item.path] > UNITS_PER_FILE and item.get_closest_marker("xdist_group") is None:
            unit = seen[item.path] * UNITS_PER_FILE // tests[item.path]
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}-{unit}"))


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config, items):
    group_for_xdist(items)
    have_gpu = torch.cuda.is_available()
    for item in items:
        wants_gpu = item.get_closest_marker("gpu") is not None
        if wants_gpu and not have_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here; ./dev gpu runs these"))
        elif wants_gpu and DEVICE != "cuda":
            item.add_marker(pytest.mark.skip(reason="needs CNNKERNELS_TEST_DEVICE=cuda, as ./dev gpu sets"))


def build_host_cuda(*targets: str):
    """Builds targets of tests/host_cuda and returns their folder; skips the test where there is no toolkit."""
    if not HAVE_CUDA_HEADERS:
        pytest.skip("no CUDA toolkit: its headers are needed to compile the CUDA sources for the CPU")
    return build_tree.build("-DCNNKERNELS_HOST_CUDA=ON", targets=targets) / "tests" / "host_cuda"


@pytest.fixture(scope="session")
def host_cuda_library():
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


class CountedDirectOps:
    """The direct functions, counting the calls of one that came back with a result."""

    def __init__(self, name):
        self.name, self.calls = name, 0

    def __getattr__(self, name):
        function = getattr(_ext.module.direct, name)
        if name != self.name:
            return function

        def counted(*args):
            y = function(*args)
            self.calls += 1
            return y

        return counted


@pytest.fixture
def count_direct(monkeypatch):
    """Called with a function's name: an object whose ``calls`` counts that function's."""
    if _ext.module is None or _ext.module.direct is None:
        pytest.skip("needs direct calls")

    def count(name):
        monkeypatch.setattr(_ext, "direct_ops", ops := CountedDirectOps(name))
        return ops

    return count


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=["generic", "avx2", "avx512"])
def isa(request):
    """The CPU kernels' instruction set."""
    if _ext.module is None:
        pytest.skip("needs the extension")
    before = _ext.module.cpu_isa()
    if _ext.module.set_cpu_isa(request.param) != request.param:
        _ext.module.set_cpu_isa(before)
        pytest.skip(f"this CPU has no {request.param}")
    yield request.param
    _ext.module.set_cpu_isa(before)
