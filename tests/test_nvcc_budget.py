"""Registers, shared memory and stack of every CUDA kernel, as nvcc built it, against tests/budgets/cuda.json.

One entry per kernel and architecture, over all its instantiations: their number, the most registers of one, the sum of
registers (so that growth anywhere shows), the most static shared memory and stack in bytes.  Any growth fails;
`python -m tests.test_nvcc_budget` writes the file anew from the objects in the build tree, to be read in the diff.
Spills never get here: the build makes them errors.
"""

from __future__ import annotations

import collections
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from . import build_tree

BUDGET = build_tree.ROOT / "tests" / "budgets" / "cuda.json"
FIELDS = ("instantiations", "registers", "registers_sum", "shared", "stack")
Usage = dict[str, dict[str, dict[str, int]]]  # kernel -> architecture -> field -> value


def kernel_of(mangled: str) -> str:
    """_ZN2ck4cuda15se_scale_kernelI...: the last of the nested name's parts, each with its length before it."""
    parts, at = [], re.match(r"_ZN?", mangled).end()
    while match := re.match(r"L?(\d+)", mangled[at:]):  # L: internal linkage
        start = at + match.end()
        at = start + int(match[1])
        parts.append(mangled[start:at])
    if not parts or not parts[-1].endswith("_kernel"):
        raise ValueError(f"no kernel in the symbol {mangled}")
    return parts[-1]


def parse(text: str) -> Usage:
    """The output of cuobjdump --dump-resource-usage."""
    found: dict[tuple[str, str], list[tuple[int, int, int]]] = collections.defaultdict(list)
    arch = name = ""
    for line in text.splitlines():
        if match := re.match(r"arch = (sm_\d+)", line):
            arch = match[1]
        elif match := re.match(r"\s*Function (\S+):", line):
            name = kernel_of(match[1])
        elif match := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+)", line):
            found[name, arch].append((int(match[1]), int(match[3]), int(match[2])))
    usage: Usage = {}
    for (kernel, arch), rows in sorted(found.items()):
        registers, shared, stack = zip(*rows, strict=True)
        values = (len(rows), max(registers), sum(registers), max(shared), max(stack))
        usage.setdefault(kernel, {})[arch] = dict(zip(FIELDS, values, strict=True))
    return usage


def nvcc_version() -> str:
    """Of the build tree, "" if it was built without CUDA."""
    cache = build_tree.BUILD / "CMakeFiles"
    files = sorted(cache.glob("*/CMakeCUDACompiler.cmake"))
    match = re.search(r'CMAKE_CUDA_COMPILER_VERSION "([\d.]+)"', files[-1].read_text()) if files else None
    return match[1] if match else ""


def measure() -> Usage:
    """Of the objects that the build made; skips where there are none, or no tool to read them."""
    objects = [build_tree.BUILD / "CMakeFiles/ck_cuda.dir/csrc/cuda" / f"{f.name}.o" for f in sources()]
    if not nvcc_version() or not objects[0].exists():
        pytest.skip(f"{build_tree.BUILD} was built without CUDA")
    triton = pytest.importorskip("triton", reason="cuobjdump comes with triton")
    tool = pathlib.Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    cuobjdump = str(tool) if tool.exists() else shutil.which("cuobjdump")
    if cuobjdump is None:
        pytest.skip("no cuobjdump, neither triton's nor on PATH")
    command = [cuobjdump, "--dump-resource-usage"]
    text = [subprocess.run([*command, str(o)], capture_output=True, text=True, check=True).stdout for o in objects]
    return parse("".join(text))


def sources() -> list[pathlib.Path]:
    return sorted((build_tree.ROOT / "csrc" / "cuda").glob("*.cu"))


def growth(budget: Usage, now: Usage) -> list[str]:
    """What is in ``now`` beyond the budget, and budget entries of kernels that are gone."""
    found = [f"{kernel}: gone, still in the budget" for kernel in sorted(set(budget) - set(now))]
    for kernel, archs in now.items():
        for arch, fields in archs.items():
            allowed = budget.get(kernel, {}).get(arch)
            if allowed is None:
                found.append(f"{kernel} for {arch}: not in the budget")
            else:
                grown = [f for f in FIELDS if fields[f] > allowed[f]]
                found += [f"{kernel} for {arch}: {f} {allowed[f]} -> {fields[f]}" for f in grown]
    return found


def test_kernels_stay_in_their_budget():
    budget = json.loads(BUDGET.read_text())
    now = measure()
    version = nvcc_version()
    if version != budget["nvcc"]:
        pytest.skip(f"the budget is of nvcc {budget['nvcc']}, the build of {version}")
    if {arch for archs in now.values() for arch in archs} != set(budget["architectures"]):
        pytest.skip(f"the budget is for {budget['architectures']}, the build for others")
    grown = growth(budget["kernels"], now)
    assert not grown, "\n".join([*grown, "if that is wanted: python -m tests.test_nvcc_budget"])


SAMPLE = """
arch = sm_90
 Function _ZN2ck4cuda15se_scale_kernelI13__nv_bfloat16Lb1EEEvPKT_PKfS7_PS3_lllbNS_3ActE:
  REG:33 STACK:0 SHARED:16 LOCAL:0 CONSTANT[0]:416
 Function _ZN2ck4cuda15se_scale_kernelIfLb1EEEvPKT_PKfS7_PS3_lllbNS_3ActE:
  REG:30 STACK:8 SHARED:0 LOCAL:0 CONSTANT[0]:416
 Function _ZN2ck4cuda36_INTERNAL_5d0_17_squeeze_excite_cu_a23se_gate_gradient_kernelENS0_7SeInputE:
  REG:12 STACK:0 SHARED:0 LOCAL:0
"""


def test_growth_is_noticed():
    now = parse(SAMPLE)
    scale = {"instantiations": 2, "registers": 33, "registers_sum": 63, "shared": 16, "stack": 8}
    assert now["se_scale_kernel"] == {"sm_90": scale} and set(now) == {"se_scale_kernel", "se_gate_gradient_kernel"}
    assert growth(now, now) == []
    for field in FIELDS:
        less = json.loads(json.dumps(now))
        less["se_scale_kernel"]["sm_90"][field] -= 1
        assert growth(less, now) == [f"se_scale_kernel for sm_90: {field} {scale[field] - 1} -> {scale[field]}"]
        assert growth(now, less) == []
    assert growth({}, now) and growth({**now, "old_kernel": {}}, now)


def write() -> None:
    kernels = measure()
    archs = sorted({arch for entry in kernels.values() for arch in entry})
    head = json.dumps({"nvcc": nvcc_version(), "architectures": archs})[:-1]
    lines = [
        f" {json.dumps(kernel)}: {{\n"
        + ",\n".join(f"  {json.dumps(arch)}: {json.dumps(fields)}" for arch, fields in entry.items())
        + "}"
        for kernel, entry in kernels.items()
    ]
    BUDGET.parent.mkdir(exist_ok=True)
    BUDGET.write_text(head + ', "kernels": {\n' + ",\n".join(lines) + "}}\n")
    print(f"{BUDGET}: {len(kernels)} kernels, nvcc {nvcc_version()}, {', '.join(archs)}")


if __name__ == "__main__":
    sys.exit(write())
