"""The packages that write ONNX files, or an ImportError that says what to install."""

from __future__ import annotations

try:
    import onnx  # noqa: F401  torch.onnx writes the file with it
    from onnxscript import opset18
except ImportError as error:
    raise ImportError("ONNX files are written by onnx and onnxscript: pip install cnnkernels[onnx]") from error

__all__ = ["opset18"]
