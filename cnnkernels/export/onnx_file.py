"""``to_onnx``: a network as an ONNX file, and whether onnxruntime computes what PyTorch does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnkernels._files import write_whole
from cnnkernels.export._example import checked
from cnnkernels.export.onnx_model import OLDEST_OPSET, onnx_model

TOLERANCE = 1e-4
"""Of an output, relative to its largest value, or to 1 if that is less."""


def to_onnx(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    path: str | os.PathLike[str],
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    dynamic_batch: bool = True,
    opset: int | None = None,
    verify: bool = True,
) -> None:
    """Writes a network as an ONNX file of standard operators, for any batch size.

    model: in evaluation: of this package, one that calls its ops, or what ``cnnkernels.optimize`` returned.  The file has
        the layers by themselves (convolution, BatchNorm, activation): every runtime fuses these in its own way.
    example: its arguments: a tensor, or a tuple of tensors.  Sizes other than the batch are fixed.
    inputs, outputs: names of the tensors in the file; by default torch.onnx's.
    dynamic_batch: False fixes the batch, too.
    opset: version of ONNX's operators, 18 or more; by default torch.onnx's.
    verify: where onnxruntime is installed, it must give PyTorch's outputs on the example, and on its first image alone:
        numbers to 1e-4 of the largest, integers exactly.

    For detectors ``cnnkernels.detection.export.export_onnx`` adds decoding, NMS and names.  The model stays as it is; a
    file is written whole or not at all.

    Raises ImportError without onnx and onnxscript, TypeError and ValueError for other arguments, RuntimeError for a file
    that onnxruntime does not compute alike, OSError.
    """
    args = checked("to_onnx", model, example, dynamic_batch)
    if opset is not None and opset < OLDEST_OPSET:
        raise ValueError(f"to_onnx: opset must be at least {OLDEST_OPSET}, got {opset}")
    made = onnx_model(model, args, inputs=inputs, outputs=outputs, dynamic_batch=dynamic_batch, opset=opset)
    content = made.SerializeToString()
    if verify:
        _verify(content, model, args)
        if dynamic_batch:
            _verify(content, model, tuple(a[:1] for a in args))
    write_whole(path, content)


def _verify(content: bytes, model: nn.Module, args: tuple[Tensor, ...]) -> None:
    try:
        import onnxruntime
    except ImportError:
        return
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    got = session.run(None, {n: a.detach().cpu().numpy() for n, a in zip(names, args, strict=True)})
    with torch.no_grad():
        wanted = [t for t in tree_leaves(model(*args)) if isinstance(t, Tensor)]
    for output, g, w in zip(session.get_outputs(), got, wanted, strict=True):
        problem = _difference(torch.as_tensor(g), w.cpu())
        if problem is not None:
            raise RuntimeError(
                f"to_onnx: onnxruntime's {output.name} {problem}; nothing was written (verify=False writes it all the same)"
            )


def _difference(got: Any, wanted: Tensor) -> str | None:
    """What is wrong with an output."""
    if got.shape != wanted.shape or got.dtype is not wanted.dtype:
        return f"is {list(got.shape)} {got.dtype}, PyTorch's {list(wanted.shape)} {wanted.dtype}"
    if not wanted.is_floating_point():
        return None if torch.equal(got, wanted) else "differs from PyTorch's"
    got, wanted = got.double(), wanted.double()
    limit = TOLERANCE * max(1.0, float(wanted.abs().max()) if wanted.numel() else 0.0)
    if torch.allclose(got, wanted, rtol=0, atol=limit, equal_nan=True):
        return None
    return f"differs from PyTorch's by {float((got - wanted).abs().max()):.2g}, more than {limit:.2g}"
