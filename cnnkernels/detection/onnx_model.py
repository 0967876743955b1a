"""Modules of this package as ONNX: its ops by their definitions, and two operators that torch.onnx leaves to us."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cnnkernels import _op
from cnnkernels.detection._onnx import opset18
from cnnkernels.detection.nms_loop import nms_loop


class _ByDefinition(TorchFunctionMode):
    """Inside, an op of the package is its definition in plain PyTorch, which a tracer then sees in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.definitions: dict[Any, Callable[..., Any]] = {o.overload: o.reference for o in _op.REGISTRY.values()}
        self.definitions[_op.REGISTRY["nms_padded"].overload] = nms_loop  # its definition waits for every box's fate

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.definitions.get(function, function)(*args, **(kwargs or {}))


class _Defined(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Tensor) -> Any:
        with _ByDefinition():
            return self.module(*args)


def _stable_sort(x: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """TopK of all: of equal values ONNX, too, puts the first first."""
    size = opset18.Gather(opset18.Shape(x), opset18.Constant(value_ints=[dim]))
    return opset18.TopK(x, size, axis=dim, largest=int(descending), sorted=1)


def _atan2(y: Any, x: Any) -> Any:
    """In double, for y and x from 0 up (sides of boxes), where onnxruntime has no arctangent but that of float32.

    That one is off by some 1e-7; with its sine and cosine the rest is a small angle, which to 1e-21 is its tangent.
    """
    double, single = 11, 1  # onnx.TensorProto's numbers of the dtypes
    zero = opset18.CastLike(opset18.Constant(value_float=0.0), y)
    quarter = opset18.Constant(value_float=math.pi / 2)
    slope = opset18.Atan(opset18.Cast(opset18.Div(y, x), to=single))
    about = opset18.Where(opset18.Greater(x, zero), slope, quarter)
    about = opset18.Cast(opset18.Where(opset18.Greater(y, zero), about, opset18.Constant(value_float=0.0)), to=double)
    y, x, sine, cosine = opset18.Cast(y, to=double), opset18.Cast(x, to=double), opset18.Sin(about), opset18.Cos(about)
    across = opset18.Sub(opset18.Mul(y, cosine), opset18.Mul(x, sine))
    along = opset18.Add(opset18.Mul(x, cosine), opset18.Mul(y, sine))
    rest = opset18.Where(opset18.Greater(along, opset18.CastLike(zero, along)), opset18.Div(across, along), across)
    return opset18.CastLike(opset18.Add(about, rest), zero)


def onnx_model(
    module: nn.Module,
    example: Sequence[Tensor],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_batch: bool = False,
    opset: int | None = None,
) -> Any:
    """``module(*example)`` as an ``onnx.ModelProto`` of standard operators.

    inputs, outputs: names of the tensors.
    dynamic_batch: the first size of every input, at least 2 in the example, may be another one.
    opset: version of ONNX's operators, 18 or more; by default torch.onnx's.
    """
    batch = torch.export.Dim("batch")
    shapes = (tuple({0: batch} for _ in example),) if dynamic_batch else None
    with torch.no_grad():
        program = torch.export.export(_Defined(module), tuple(example), dynamic_shapes=shapes)
    translations: dict[Callable[..., Any], Callable[..., Any]] = {
        torch.ops.aten.sort.stable: _stable_sort,
        torch.ops.aten.atan2.default: _atan2,
    }
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
