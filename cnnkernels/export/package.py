"""``to_package``: a network compiled by AOTInductor into one file, with this package's ops in it."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels._files import write_whole
from cnnkernels.export._example import checked, dynamic_shapes

OPTIONS = {"aot_inductor.use_runtime_constant_folding": True}
"""BatchNorm's scale and shift are computed when the package is loaded, not at every call."""


def to_package(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    path: str | os.PathLike[str],
    *,
    dynamic_batch: bool = True,
) -> None:
    """Compiles a network, with its weights, for the device of the example: a file of a minute's work for a C++ compiler.

    model: in evaluation: of this package, one that calls its ops, or what ``cnnkernels.optimize`` returned.  Where a module
        has a fused op under ``torch.compile``, the package calls that op; all else is code that Inductor generates.
    example: its arguments: a tensor, or a tuple of tensors.  Sizes other than the batch are fixed.
    path: ends in .pt2.
    dynamic_batch: False fixes the batch, too.

    ``load_package`` loads it, in another process too.  The ops stay calls of ``torch.ops.cnnkernels.*``, so that process
    needs this package installed, but neither the model's code nor a compiler.

    Raises TypeError and ValueError for other arguments, OSError; what the compiler says is passed on.
    """
    if pathlib.Path(path).suffix != ".pt2":
        raise ValueError(f"to_package: path must end in .pt2, got {str(path)!r}")
    args = checked("to_package", model, example, dynamic_batch)
    with torch.no_grad():
        # strict: Dynamo shows the modules plain tensors, for which they take their fused paths; else they would see
        # FakeTensors, and compute by their children.
        shapes = dynamic_shapes(model, args) if dynamic_batch else None
        program = torch.export.export(model, args, dynamic_shapes=shapes, strict=True)
        with tempfile.TemporaryDirectory() as folder:
            package = os.path.join(folder, "model.pt2")
            torch._inductor.aoti_compile_and_package(program, package_path=package, inductor_configs=OPTIONS)
            write_whole(path, pathlib.Path(package).read_bytes())


def load_package(path: str | os.PathLike[str]) -> Any:
    """What ``to_package`` wrote, as a function of the example's arguments; for inference only.

    It is ``torch._inductor.aoti_load_package`` in a process where the ops are registered, which importing ``cnnkernels``
    does.  Raises FileNotFoundError.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"load_package: there is no file {str(path)!r}")
    return torch._inductor.aoti_load_package(os.fspath(path))
