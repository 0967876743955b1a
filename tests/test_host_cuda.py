"""The CUDA sources on the CPU: the machinery itself, its eye for seeded bugs, every op's kernels under sanitizers."""

from __future__ import annotations

import os
import subprocess

import pytest

from . import build_tree
from .conftest import DEVICE, build_host_cuda

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="the CPU run tests these; this run is the GPU's")
KINDS = ("plain", "asan", "tsan")
SANITIZED = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1"}


def run(program: str, *arguments: str, order: str = "forward") -> subprocess.CompletedProcess[str]:
    folder = build_host_cuda(program)
    environment = {**os.environ, **SANITIZED, "HOSTCUDA_ORDER": order, "HOSTCUDA_SEED": "5"}
    return subprocess.run(
        [str(folder / program), *arguments], capture_output=True, text=True, env=environment, timeout=900
    )


def assert_all_passed(done: subprocess.CompletedProcess[str], at_least: int) -> None:
    output = done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    assert done.returncode == 0 and last.endswith(" cases, 0 failures"), output[-5000:]
    assert int(last.split()[0]) >= at_least, f"only {last}"


# ---- the machinery ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_shim(kind):
    cases = sum(f.read_text().count("\nDRIVE(") for f in (build_tree.ROOT / "tests" / "host_cuda").glob("shim_*.cpp"))
    assert_all_passed(run(f"shim_{kind}"), cases)


# Bug (number in seeded_bugs.cpp) -> build -> what that build must print.  A bug that a build cannot see is not listed.
SEEDED = {
    "no barrier": (1, {"plain": "wrong result", "tsan": "data race"}),
    "out of bounds": (2, {"asan": "heap-buffer-overflow"}),
    "divergent barrier": (3, dict.fromkeys(KINDS, "reached by 32 of 96 threads")),
    "unwritten shared memory": (4, dict.fromkeys(KINDS, "wrong result")),  # poisoned with NaN
    "half a warp": (5, dict.fromkeys(KINDS, "names it")),
    "no atomic": (6, {"tsan": "data race"}),
    "shared array overrun": (7, {"plain": "past the end of shared array part", "asan": "out of bounds"}),
}
SEEDED_RUNS = [
    pytest.param(n, k, say, id=f"{bug}-{k}") for bug, (n, builds) in SEEDED.items() for k, say in builds.items()
]


@pytest.mark.parametrize(("number", "kind", "says"), SEEDED_RUNS)
def test_seeded_bug_is_noticed(number, kind, says):
    done = run(f"seeded_{kind}", str(number))
    assert done.returncode != 0
    assert says in done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_no_false_alarm(kind):
    done = run(f"seeded_{kind}", "0")
    assert (done.returncode, done.stdout.strip()) == (0, "right result"), done.stderr[-3000:]


# ---- the ops' kernels ------------------------------------------------------------------------------------------------


def drivers() -> int:
    return len(list((build_tree.ROOT / "tests" / "host_cuda").glob("drive_*.cpp")))


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
def test_kernels(order):
    """CPU (every instruction set here) and CUDA kernels agree, whatever the order in which CUDA threads run."""
    assert_all_passed(run("drive_plain", order=order), drivers())


def test_kernels_under_address_and_undefined_behaviour_sanitizer():
    assert_all_passed(run("drive_asan"), drivers())


def test_cuda_kernels_under_thread_sanitizer():
    """ThreadSanitizer as race checker: each CUDA thread is a thread to it, and only barriers order them."""
    assert_all_passed(run("drive_tsan"), drivers())


def test_every_op_has_a_driver():
    """Each launcher header in csrc/cuda is included by a driver."""
    folder = build_tree.ROOT / "tests" / "host_cuda"
    drivers = "".join(f.read_text() for f in folder.glob("drive_*.cpp"))
    headers = [f.name for f in (build_tree.ROOT / "csrc" / "cuda").glob("*.h")]
    assert headers and [h for h in headers if f'"../../csrc/cuda/{h}"' not in drivers] == []
