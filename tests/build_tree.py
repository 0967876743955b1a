"""The CMake build tree that the tests share with the extension: one set of objects, each compiled once.

setup.py configures the tree (CNNKERNELS_BUILD_DIR, default ``build/``); here more targets of it are built.
"""

from __future__ import annotations

import fcntl
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("CNNKERNELS_BUILD_DIR", ROOT / "build"))


def cuda_include() -> pathlib.Path | None:
    """The CUDA toolkit's include folder, if there is a toolkit."""
    nvcc = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_HOME"), nvcc and pathlib.Path(nvcc).resolve().parent.parent, "/usr/local/cuda"]
    includes = [pathlib.Path(home) / "include" for home in homes if home]
    return next((i for i in includes if (i / "cuda_fp16.h").exists()), None)


def build(*options: str, targets: tuple[str, ...]) -> pathlib.Path:
    """Configures with more -D options, builds the targets, and returns the tree's folder.  A failure fails the test."""
    configure = ["cmake", "-S", str(ROOT), "-B", str(BUILD), *options]
    configure += [f"-DTORCH_DIR={pathlib.Path(torch.__file__).parent}", f"-DPython_EXECUTABLE={sys.executable}"]
    if ninja := shutil.which("ninja"):
        configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "tests.lock").open("w") as lock:  # processes of pytest-xdist take turns
        fcntl.flock(lock, fcntl.LOCK_EX)
        run(configure)
        run(["cmake", "--build", str(BUILD), "--parallel", jobs, "--target", *targets])
    return BUILD


def run(command: list[str], **kwargs: object) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, **kwargs)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}", pytrace=False)
    return done.stdout
