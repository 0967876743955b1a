"""The packages that write ONNX files, or an ImportError that says what to install."""

from __future__ import annotations

from typing import Any

try:
    import onnx_ir as ir
    from onnx import TensorProto
    from onnx.helper import make_tensor
    from onnxscript import FLOAT, INT64, evaluator, opset18, script
    from onnxscript.values import Opset
except ImportError as error:
    raise ImportError("ONNX files are written by onnx and onnxscript: pip install cnnkernels[onnx]") from error

__all__ = ["FLOAT", "INT64", "Opset", "TensorProto", "call", "make_tensor", "opset18", "script"]


def call(function: Any, *args: Any) -> Any:
    """Calls an onnxscript function from a translation, and gives the model those that it calls, too.

    torch.onnx (2.11 to 2.13) adds the called function alone, and a model with calls of unknown functions is the result.
    """
    result = function(*args)
    known = evaluator.default().functions
    for called in (function, *function.function_ir.get_called_functions().values()):
        known[called.function_ir.domain, called.name, ""] = _with_long_names(called)
    return result


def _with_long_names(function: Any) -> Any:
    """The function as onnx_ir has it, "x" being "function.x": torch.onnx writes its body inline and then gives inputs and
    outputs the names that the user wants, whoever has them already."""
    made = ir.serde.deserialize_function(function.to_function_proto())
    for node in ir.traversal.RecursiveGraphIterator(made.graph):
        subgraphs = [a.value for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
        for value in (*node.outputs, *(v for graph in subgraphs for v in graph.inputs)):
            value.name = f"{function.name}.{value.name}"
    return made
