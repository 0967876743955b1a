"""Builds cnnkernels._C with CMake, against the torch that is installed; everything else is in pyproject.toml.

torch is deliberately not a build requirement: a build environment of its own would download another torch than the one
the package is used with.  The installed one is found without importing it.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

try:
    import pybind11
except ImportError:
    sys.exit("cnnkernels needs pybind11 to build: pip install pybind11")

ROOT = pathlib.Path(__file__).parent.resolve()
NO_TORCH = """
cnnkernels needs an installed PyTorch (>= 2.11), and found none in {where}.
Install it first: pip install torch (for a machine without a GPU, its CPU build),
then run `pip install -e .` again. (uv: add --no-build-isolation.)
"""


def torch_dir() -> pathlib.Path:
    """The folder of the torch that this interpreter would import, found without importing it."""
    folders = [*sys.path, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    for folder in folders:
        candidate = pathlib.Path(folder or ".") / "torch"
        if (candidate / "include" / "torch" / "csrc" / "stable").is_dir():
            return candidate
    sys.exit(NO_TORCH.format(where=sysconfig.get_path("purelib")))


def cuda_archs() -> str:
    """TORCH_CUDA_ARCH_LIST ("8.0;9.0+PTX") in CMake's spelling ("80-real;90")."""
    wanted = (os.environ.get("TORCH_CUDA_ARCH_LIST") or "8.0;9.0+PTX").replace(" ", ";")
    archs = []
    for arch in filter(None, wanted.split(";")):
        number = arch.removesuffix("+PTX").replace(".", "")
        archs.append(number if arch.endswith("+PTX") else f"{number}-real")
    return ";".join(archs)


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        target = pathlib.Path(self.get_ext_fullpath(ext.name)).resolve()
        build = pathlib.Path(os.environ.get("CNNKERNELS_BUILD_DIR", ROOT / "build"))
        cmake = shutil.which("cmake") or sys.exit("cnnkernels: cmake not found; pip install cmake")
        configure = [cmake, "-S", str(ROOT), "-B", str(build)]
        if ninja := shutil.which("ninja"):
            # An isolated build has its tools in a folder that is gone at the next build: name today's, not the cache's.
            configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        configure += [
            f"-DTORCH_DIR={torch_dir()}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DPYBIND11_DIR={pybind11.get_include()}",
            f"-DCNNKERNELS_CUDA={os.environ.get('CNNKERNELS_CUDA') or 'auto'}",
            f"-DCNNKERNELS_CUDA_ARCHS={cuda_archs()}",
        ]
        subprocess.run(configure, check=True)
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        subprocess.run([cmake, "--build", str(build), "--target", "_C", "--parallel", jobs], check=True)
        built = next(build.glob("_C.*"))
        target.parent.mkdir(parents=True, exist_ok=True)
        # A new file in place of the old one: a process that has the old one mapped keeps working.
        temporary = target.with_suffix(".new")
        shutil.copy2(built, temporary)
        os.replace(temporary, target)


setup(ext_modules=[Extension("cnnkernels._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
