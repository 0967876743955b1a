"""Which layer may use which: dependencies point one way, read from the sources' imports and includes."""

from __future__ import annotations

import ast
import pathlib
import re

import pytest

from cnnkernels import _activation

from .build_tree import ROOT

PACKAGE = ROOT / "cnnkernels"
CSRC = ROOT / "csrc"

# Python, from the bottom: a module may import at module level from its own layer and those below it.
LAYERS = ("private", "_op", "ops", "nn", "models", "export", "detection", "tools")
ABOVE_OP = {
    "compare": "tools",
    "draw": "tools",
    "_doctor": "tools",
    "_export_command": "tools",
    "_explain": "tools",
    "_selftest": "tools",
    "_tune": "tools",
    "roofline": "tools",
    "optimize": "tools",
    "export": "tools",
    "cli": "tools",
    "demo": "tools",
    "": "tools",
}


def layer_of(module: str) -> str:
    """cnnkernels.nn.conv -> nn"""
    first = module.removeprefix("cnnkernels").removeprefix(".").split(".")[0]
    if first in LAYERS:
        return first
    return ABOVE_OP.get(first, "private")


def modules() -> dict[str, pathlib.Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: pathlib.Path) -> set[str]:
    """The modules of this package that a file imports, inside functions too."""
    known, found = modules(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            base = node.module or ""
            found |= {f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names}
    return {m for m in found if m.split(".")[0] == "cnnkernels" and m in known and m != "cnnkernels"}


@pytest.mark.parametrize("module", sorted(modules()))
def test_python_imports_point_down(module):
    mine = LAYERS.index(layer_of(module))
    above = {m for m in imports(modules()[module]) if LAYERS.index(layer_of(m)) > mine}
    assert not above


def test_no_op_imports_another_op():
    """Triton shares formulas (activations, overlaps), an op's kernels with its training form, BN's with the convolutions."""
    for module, path in modules().items():
        stem = module.rsplit(".", 1)[-1]
        if layer_of(module) != "ops" or stem in ("ops", "triton"):
            continue
        others = {m for m in imports(path) if layer_of(m) == "ops" and not m.endswith(f".{stem}")}
        others.discard(f"cnnkernels.ops.triton.{stem.removesuffix('_train')}")
        formulas = {"cnnkernels.ops.triton.activation", "cnnkernels.ops.triton.box_overlap"}
        others -= formulas if ".triton." in module else set()
        convolution = module.startswith(("cnnkernels.ops.triton.dwconv", "cnnkernels.ops.triton.pointwise"))
        others -= {"cnnkernels.ops.triton.bn_act"} if convolution else set()
        assert not others, f"{module} imports {sorted(others)}"


# ---- C++ -------------------------------------------------------------------------------------------------------------

MAY_INCLUDE = {
    "math": {"math"},
    "cpu": {"math", "cpu"},
    "cuda": {"math", "cuda"},
    "torch": {"math", "cpu", "cuda", "torch"},
}


def sources() -> list[pathlib.Path]:
    return sorted(f for f in CSRC.rglob("*") if f.suffix in (".h", ".cpp", ".cu", ".cuh"))


def includes(path: pathlib.Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(CSRC)))
def test_includes_point_down(path):
    folder = path.relative_to(CSRC).parts[0]
    for include in includes(path):
        target = (path.parent / include).resolve()
        if target.is_file() and CSRC in target.parents:
            assert target.relative_to(CSRC).parts[0] in MAY_INCLUDE[folder], include
        elif folder != "torch":
            assert not re.match(r"(torch|ATen|c10|pybind11|Python)", include), include
        if folder == "math":
            assert not include.startswith("cuda"), include


def without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)


def test_kernels_use_the_portable_vocabulary():
    """Outside device/: launches through ck::launch, shared memory through CK_SHARED and CK_DYN_SHARED."""
    seen = 0
    for path in sources():
        if path.parent.name == "cuda":
            seen += 1
            raw = re.findall(r"<<<|\b__shared__\b|\bcudaLaunchKernel\b", without_comments(path.read_text()))
            assert not raw, f"{path.name}: {raw}"
    assert seen > 5


def test_activation_numbering():
    text = (CSRC / "math" / "activation.h").read_text()
    body = re.search(r"enum class Act : int \{(.*?)\}", text, re.DOTALL)[1]
    assert {name: int(code) for name, code in re.findall(r"(\w+) = (\d+)", body)} == _activation.CODES
