"""torchvision's real CPU operators on a CPU build of torch.

PyPI's torchvision is a CUDA build: its extension asks for libc10_cuda.so and libtorch_cuda.so, which a CPU torch does not
have, and without the extension ``import torchvision`` fails.  CPU tensors use nothing of the two, so two libraries of
those names that define the missing symbols as zeros, loaded first, let the extension load.  They are compiled into a
temporary folder.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import pathlib
import shutil
import subprocess
import tempfile
from functools import lru_cache
from types import ModuleType

import torch


def _missing_symbols(extension: pathlib.Path) -> list[str]:
    """Symbols of PyTorch's CUDA libraries that the extension needs."""
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", str(extension)], check=True, capture_output=True, text=True
    )
    names = [line.split()[-1] for line in listing.stdout.splitlines() if line.split()[0] == "U"]
    here = [ctypes.CDLL(str(pathlib.Path(torch.__file__).parent / "lib" / f"lib{n}.so")) for n in ("c10", "torch_cpu")]
    here.append(ctypes.CDLL(None))
    return [n for n in names if n.startswith("_Z") and "cuda" in n.lower() and not any(hasattr(lib, n) for lib in here)]


def _load_stubs(package: pathlib.Path) -> None:
    compiler = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if compiler is None or shutil.which("nm") is None:
        raise ImportError("its extension needs stub libraries here, and there is no C++ compiler for them")
    for runtime in (package.parent / "torchvision.libs").glob("libcudart*.so*"):
        ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
    symbols = _missing_symbols(package / "_C.so")
    lines = [f'asm(".globl {s}\\n{s}: .zero 64");' for s in symbols]
    with tempfile.TemporaryDirectory() as folder:
        for name, body in (("libc10_cuda.so", ['asm(".data");', *lines]), ("libtorch_cuda.so", [])):
            library, source = pathlib.Path(folder) / name, pathlib.Path(folder) / f"{name}.cpp"
            source.write_text("\n".join(body) + "\n")
            command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", str(source), "-o", str(library)]
            subprocess.run(command, check=True, capture_output=True)
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


@lru_cache(maxsize=1)
def _find() -> tuple[ModuleType | None, str]:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None, "torchvision is not installed (pip install --no-deps torchvision==0.28.0)"
    try:
        if torch.version.cuda is None:
            _load_stubs(pathlib.Path(spec.origin).parent)
        module = importlib.import_module("torchvision")
        torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, OSError, RuntimeError, AttributeError, subprocess.CalledProcessError) as e:
        return None, f"torchvision is installed but does not load here: {e}"
    return module, ""


def torchvision() -> ModuleType | None:
    """The torchvision package with working operators, or None."""
    return _find()[0]


def why_not() -> str:
    """Why ``torchvision()`` is None; "" if it is not."""
    return _find()[1]
