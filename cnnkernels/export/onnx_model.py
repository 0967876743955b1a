"""Modules as ONNX models of standard operators; how this package's ops are translated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels import _op
from cnnkernels.export._example import dynamic_shapes
from cnnkernels.export._plain import plain

OLDEST_OPSET = 18
"""In which torch.onnx writes the operators that are used here."""


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What ``torch.onnx.export(..., dynamo=True, custom_translation_table=onnx_translations())`` needs of this package.

    Every op but those of training and of gradients is there, in standard operators of opset 18; NMS is an onnxscript
    function with a loop, which the exporter writes inline.  Raises ImportError without onnx and onnxscript.
    """
    from cnnkernels.export import onnx_ops

    return {op.overload: getattr(onnx_ops, op.name) for op in _op.REGISTRY.values() if hasattr(onnx_ops, op.name)}


def onnx_model(
    module: nn.Module,
    example: Sequence[Tensor],
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    dynamic_batch: bool = False,
    opset: int | None = None,
) -> Any:
    """``module(*example)`` as an ``onnx.ModelProto`` of standard operators.

    inputs, outputs: names of the tensors; by default torch.onnx's.
    dynamic_batch: the first size of every input, at least 2 in the example, may be another one.
    opset: version of ONNX's operators, 18 or more; by default torch.onnx's.
    """
    translations = onnx_translations()
    args = tuple(example)
    with torch.no_grad(), plain(module):
        program = torch.export.export(
            module, args, dynamic_shapes=dynamic_shapes(module, args) if dynamic_batch else None
        )
    converted = torch.onnx.export(
        program,
        input_names=inputs,
        output_names=outputs,
        opset_version=opset,
        custom_translation_table=translations,
        dynamo=True,
        verbose=False,
    )
    assert converted is not None  # it is for a file name
    return converted.model_proto
