"""``cnnkernels doctor``: what is installed and in use, a self-test of every op on every backend, a block for bug reports."""

from __future__ import annotations

import getpass
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence

import torch

from cnnkernels import _backend, _explain, _ext, _machine, _selftest
from cnnkernels.choice import store

_VARIABLES = re.compile(r"CNNKERNELS_|TRITON_|CUDA_VISIBLE_DEVICES$|OMP_NUM_THREADS$|TORCH_CUDA_ARCH_LIST$")


def run() -> int:
    """Prints a report; 1 if a self-test fails."""
    explained = str(_explain.explain())  # before the self-tests, whose fallbacks are on purpose
    rows, problems = _self_tests()
    print("For a bug report, copy from here:\n\n```text")
    print(without_names(_report(explained, rows, problems)))
    print("```\n")
    tests = sum(cell != "-" for row in rows[1:] for cell in row[3:])
    print(f"{len(problems)} of {tests} self-tests failed." if problems else f"All {tests} self-tests passed.")
    return 1 if problems else 0


def _report(explained: str, rows: Sequence[Sequence[str]], problems: Sequence[str]) -> str:
    facts = {"processor": _processor(), **_abi(), **_instruction_sets(), "nvcc": _line("nvcc", "--version", "release")}
    facts |= _gpus() | _choices() | _variables()
    width = max(map(len, facts)) + 2
    parts = [explained, "\n".join(f"{name:<{width}}{value}" for name, value in facts.items())]
    parts.append("Self-tests, by default on the backend named, and on each that is available:\n" + _explain.table(rows))
    if problems:
        parts.append("Failures:\n" + "\n".join(f"  {p}" for p in problems))
    return "\n\n".join(parts)


def without_names(text: str) -> str:
    """The text without the home folder's path and, in paths, the user's name."""
    home = os.path.expanduser("~")
    if len(home) > 1:
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # an account that the system does not list
        return text
    return re.sub(rf"(?<=[/\\]){re.escape(user)}(?![\w.-])", "<user>", text)


# ---- self-tests ------------------------------------------------------------------------------------------------------


def _self_tests() -> tuple[list[Sequence[str]], list[str]]:
    """A table with its heading, and what is wrong.

    Per op and device what runs by default, then the result of each way to call it: ok, FAILED, "in part" if ``reference``
    served the rest (a gradient, say), "-" if the backend is not there for it.
    """
    rows: list[Sequence[str]] = [("op", "device", "default", "as called", *_backend.NAMES)]
    problems: list[str] = []
    for device in ["cpu"] + (["cuda"] if torch.cuda.is_available() else []):
        for name in _selftest.SAMPLES:
            cells = []
            for backend in ("auto", *_backend.NAMES):
                result = _selftest.check(name, device, backend)
                if backend == "auto":
                    default = ", ".join(result.backends) or "-"
                if result.problem is not None:
                    problems.append(f"{name} on {device} tensors, {_ways(backend)}: {result.problem}")
                cells.append(_verdict(result, backend))
            rows.append((name, device, default, *cells))
    return rows, problems


def _verdict(result: _selftest.Result, backend: str) -> str:
    if result.problem is not None:
        return "FAILED"
    if backend == "auto" or result.missing is None:
        return "ok"
    return "in part" if backend in result.backends else "-"


def _ways(backend: str) -> str:
    return "called plainly" if backend == "auto" else f"asked to run on {backend}"


# ---- facts -----------------------------------------------------------------------------------------------------------


def _processor() -> str:
    names = _machine.processors()
    return f"{len(names)} x {names[0]}"


def _abi() -> dict[str, str]:
    stable = "PyTorch's stable ABI of 2.11" if _ext.module is not None else "no extension loaded"
    libc = " ".join(platform.libc_ver()) or "unknown libc"
    cxx11 = int(torch.compiled_with_cxx11_abi())
    return {"abi": f"{sysconfig.get_config_var('SOABI')}, {stable}, {libc}, _GLIBCXX_USE_CXX11_ABI={cxx11}"}


def _instruction_sets() -> dict[str, str]:
    facts = {"torch's cpu kernels": torch.backends.cpu.get_cpu_capability()}
    if _ext.module is not None:
        used = _ext.module.cpu_isa()
        able = [name for name in ("generic", "avx2", "avx512") if _ext.module.set_cpu_isa(name) == name]
        _ext.module.set_cpu_isa(used)
        facts["instruction sets"] = f"{used} in use, {', '.join(able)} possible"
    return facts


def _gpus() -> dict[str, str]:
    facts = {}
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        facts[f"gpu {i}"] = f"{p.name}, compute capability {p.major}.{p.minor}, {p.total_memory / 2**30:.0f} GiB"
    if facts:
        facts["driver"] = _line("nvidia-smi", "--query-gpu=driver_version", "", "--format=csv,noheader")
    return facts


def _choices() -> dict[str, str]:
    """Where measured choices are, and whether they fit."""
    devices = [torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))]
    facts = {}
    for device in devices:
        known = store.known(device)
        facts[f"choices on {device}"] = f"{known.shipped} shipped for {known.kind}; {known.path}: {known.note}"
    return facts


def _variables() -> dict[str, str]:
    return {name: repr(value) for name, value in sorted(os.environ.items()) if _VARIABLES.match(name)}


def _line(program: str, argument: str, containing: str, *more: str) -> str:
    """The first line with this in it that a program prints."""
    path = shutil.which(program)
    if path is None:
        usual = pathlib.Path("/usr/local/cuda/bin") / program
        path = str(usual) if usual.exists() else None
    if path is None:
        return "not found"
    try:
        done = subprocess.run([path, argument, *more], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as e:
        return f"found, but does not run: {e}"
    lines = [line.strip() for line in done.stdout.splitlines() if containing in line]
    return lines[0] if lines else "found, but it says nothing"
