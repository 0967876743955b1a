"""setup.py's decisions, CMake's switches, and the package where the extension, triton or torch is missing."""

from __future__ import annotations

import json
import os
import pathlib
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tomllib

import pytest
import setuptools
import torch

from cnnkernels import _ext
from cnnkernels._op import REGISTRY

from .build_tree import ROOT
from .cases import NOT_WRITTEN


@pytest.fixture
def setup_py(monkeypatch):
    """setup.py's namespace, without its call of setup(); what it would have been called with is under "arguments"."""
    arguments = {}
    monkeypatch.setattr(setuptools, "setup", lambda **given: arguments.update(given))
    return runpy.run_path(str(ROOT / "setup.py")) | {"arguments": arguments}


# ---- setup.py ----------------------------------------------------------------------------------------------------------


def test_one_extension(setup_py):
    assert [e.name for e in setup_py["arguments"]["ext_modules"]] == ["cnnkernels._C"]
    assert setup_py["arguments"]["cmdclass"]["build_ext"] is setup_py["CMakeBuild"]


@pytest.mark.parametrize(
    ("wanted", "cmake"),
    [
        (None, "80-real;90"),  # sm_80 and sm_90, and PTX of the latter for what comes after
        ("", "80-real;90"),  # set, but empty, is not set: so torch reads it, too
        ("9.0", "90-real"),
        ("8.0;9.0", "80-real;90-real"),
        ("8.0 8.6 9.0a+PTX", "80-real;86-real;90a"),
        ("7.5;10.0;12.0+PTX", "75-real;100-real;120"),
        (" 9.0 ; ", "90-real"),
    ],
)
def test_architectures(setup_py, monkeypatch, wanted, cmake):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    if wanted is not None:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wanted)
    assert setup_py["cuda_archs"]() == cmake


def test_torch_is_found_without_being_imported():
    program = (
        "import json, runpy, setuptools, sys\n"
        "setuptools.setup = lambda **_: None\n"
        f"names = runpy.run_path({str(ROOT / 'setup.py')!r})\n"
        "print(json.dumps([str(names['torch_dir']()), 'torch' in sys.modules]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    folder, imported = json.loads(done.stdout)
    assert pathlib.Path(folder).resolve() == pathlib.Path(torch.__file__).parent.resolve()
    assert not imported


@pytest.mark.parametrize("too_old", [False, True])
def test_without_torch_three_lines_say_what_to_do(setup_py, monkeypatch, tmp_path, too_old):
    if too_old:  # a torch before the stable ABI
        (tmp_path / "torch" / "include" / "torch").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        setup_py["torch_dir"]()
    lines = str(stop.value.code).strip().splitlines()
    assert len(lines) == 3
    assert "needs an installed PyTorch (>= 2.11)" in lines[0]
    assert str(tmp_path) in lines[0]
    assert "pip install torch" in lines[1]
    assert "pip install -e ." in lines[2]


def test_torch_is_no_requirement_that_pip_would_download():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["build-system"]["requires"] + project["project"]["dependencies"]
    assert not [r for r in wanted if r.startswith(("torch", "triton", "nvidia"))]


@pytest.mark.parametrize("cuda", [None, "", "auto", "0", "1"])
def test_what_the_build_asks_of_cmake(setup_py, monkeypatch, tmp_path, cuda):
    """CNNKERNELS_CUDA and MAX_JOBS go through; nothing asks for a GPU; the module lands in one step."""
    commands, target, build = [], tmp_path / "lib", tmp_path / "build"

    def fake_run(command, **options):
        assert options == {"check": True}
        commands.append(command)
        if "--build" in command:
            build.mkdir()
            (build / "_C.so").write_text("built")

    monkeypatch.setattr(subprocess, "run", fake_run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("a decision depends on a visible GPU"))
    monkeypatch.setenv("CNNKERNELS_BUILD_DIR", str(build))
    monkeypatch.setenv("MAX_JOBS", "3")
    monkeypatch.delenv("CNNKERNELS_CUDA", raising=False)
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    if cuda is not None:
        monkeypatch.setenv("CNNKERNELS_CUDA", cuda)
    command = setup_py["CMakeBuild"](setuptools.Distribution({"ext_modules": setup_py["arguments"]["ext_modules"]}))
    command.ensure_finalized()
    command.build_lib = str(target)
    command.build_extension(command.extensions[0])
    configure, compile_ = commands
    assert f"-DCNNKERNELS_CUDA={cuda or 'auto'}" in configure
    assert "-DCNNKERNELS_CUDA_ARCHS=80-real;90" in configure
    assert f"-DPython_EXECUTABLE={sys.executable}" in configure
    assert compile_[compile_.index("--parallel") + 1] == "3"
    (module,) = (target / "cnnkernels").iterdir()
    assert module.name.startswith("_C.")
    assert module.read_text() == "built"


# ---- CMake -------------------------------------------------------------------------------------------------------------


def configure(tmp_path, *options):
    if shutil.which("cmake") is None:
        pytest.skip("no cmake here")
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path), f"-DPython_EXECUTABLE={sys.executable}", *options]
    if ninja := shutil.which("ninja"):
        command += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


TORCH = f"-DTORCH_DIR={pathlib.Path(torch.__file__).parent}"


def test_cuda_0_builds_for_the_cpu_only(tmp_path):
    status, said = configure(tmp_path, TORCH, "-DCNNKERNELS_CUDA=0")
    assert status == 0, said
    assert "CUDA kernels" not in said
    rules = (tmp_path / "build.ninja" if shutil.which("ninja") else tmp_path / "Makefile").read_text()
    assert "csrc/torch/module.cpp" in rules or not shutil.which("ninja")
    assert ".cu.o" not in rules


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-DTORCH_DIR=/nowhere", "-DCNNKERNELS_CUDA=0"], "needs torch >= 2.11; TORCH_DIR='/nowhere'"),
        ([TORCH, "-DCNNKERNELS_CUDA=yes"], "CNNKERNELS_CUDA must be auto, 0 or 1, got 'yes'"),
    ],
)
def test_cmake_refuses(tmp_path, options, message):
    status, said = configure(tmp_path, *options)
    assert status != 0
    assert message in said


# ---- where something is missing -----------------------------------------------------------------------------------------

# Every public op with its gradients in a new process; prints as JSON who served, what explain() says, and what is loaded.
PROGRAM = """
import json, sys, traceback
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None  # import raises ModuleNotFoundError, and find_spec finds nothing
import torch, cnnkernels
from cnnkernels import _selftest
results = {name: _selftest.check(name, "cpu") for name in _selftest.SAMPLES}
served = {name: (", ".join(r.backends) or "-", r.problem) for name, r in results.items()}
unit = cnnkernels.nn.DWConvBNAct(8)
with cnnkernels.record_backends() as runs:
    unit(torch.randn(2, 8, 5, 5)).sum().backward()
told = cnnkernels.explain()
print(json.dumps({"served": served, "unit": [(r.backend, r.reason) for r in runs], "ops": told.ops, "told": str(told),
                  "unit says": repr(unit), "loaded": [n for n in sys.modules if sys.modules[n] is not None]}))
"""


def in_a_new_process(*hidden, folder=ROOT, **environment):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("CNNKERNELS_", "TRITON_"))}
    env |= environment | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", PROGRAM, json.dumps(hidden)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not done.stderr.strip()  # no warnings on import, either
    return json.loads(done.stdout)


def served(got):
    assert [problem for _, problem in got["served"].values() if problem] == []
    assert len(got["served"]) >= 13
    return {backends for backends, _ in got["served"].values()}


def why_not_triton(op):
    return "not written for Triton" if (op, "triton") in NOT_WRITTEN else "triton is not installed"


def test_without_the_extension_and_triton():
    got = in_a_new_process("cnnkernels._C", "triton")
    assert served(got) == {"reference"}
    assert {tuple(run) for run in got["unit"]} == {("reference", None)}
    for name, row in got["ops"].items():
        assert row["cpu tensors"] == row["cuda tensors"] == "reference"
        assert row["why not cpu"] == row["why not cuda"] != ""
        assert "the compiled extension is not built: run `pip install -e .`" in row["why not cpu"]
        assert why_not_triton(name) in row["why not triton"]
    assert "the compiled extension is not built" in got["told"]
    assert "reference" in got["unit says"]


def test_asking_for_what_is_missing_falls_back_and_says_so():
    got = in_a_new_process("cnnkernels._C", "triton", CNNKERNELS_BACKEND="triton")
    assert served(got) == {"reference"}
    assert {run[0] for run in got["unit"]} == {"reference"}
    assert all(run[1].startswith("triton: triton is not installed") for run in got["unit"])
    assert "Everything was asked to run on 'triton'" in got["told"]
    assert "Calls that reference served instead" in got["told"]


@pytest.mark.skipif(_ext.module is None, reason=str(_ext.error))
def test_without_triton_the_kernels_still_run():
    got = in_a_new_process("triton")
    assert served(got) == {"cpu"}
    assert {tuple(run) for run in got["unit"]} == {("cpu", None)}
    assert all(why_not_triton(name) in row["why not triton"] for name, row in got["ops"].items())
    assert all(row["cpu tensors"] == "cpu" for row in got["ops"].values())


@pytest.mark.skipif(_ext.module is None, reason=str(_ext.error))
def test_nothing_is_imported_before_it_is_needed():
    loaded = in_a_new_process()["loaded"]
    assert "cnnkernels._C" in loaded
    for module in ("cnnkernels.ops.triton", "torchvision", "skimage", "matplotlib", "torch._inductor"):
        assert module not in loaded


def test_an_extension_for_another_torch_is_said_to_be_one(tmp_path):
    """A module that is there but does not load: the message carries the loader's reason and what to do."""
    package = tmp_path / "cnnkernels"
    shutil.copytree(ROOT / "cnnkernels", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    (package / f"_C{suffix}").write_bytes(b"no ELF file")
    got = in_a_new_process(folder=tmp_path)
    assert served(got) == {"reference"}
    (reason,) = {row["why not cpu"] for row in got["ops"].values()}
    assert f"does not load beside torch {torch.__version__} (" in reason
    assert f"_C{suffix}" in reason
    assert reason.endswith("run `pip install -e .` again to rebuild it")


def test_import_without_torch_names_torch():
    """One error, at the import, that says which package is missing."""
    program = "import sys; sys.modules['torch'] = None; import cnnkernels"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "torch" in done.stderr.splitlines()[-1]
    assert "ModuleNotFoundError" in done.stderr.splitlines()[-1]


def test_every_op_names_its_native_kernels():
    """So that an extension that lacks one of them is noticed before the call."""
    for op in REGISTRY.values():
        assert op.native is None or op.native_ops, op
