"""Networks as files for other runtimes: ONNX, and packages that AOTInductor compiled.  docs/export.md says which to take."""

from cnnkernels.export.onnx_file import to_onnx
from cnnkernels.export.onnx_model import onnx_translations
from cnnkernels.export.package import load_package, to_package

__all__ = ["load_package", "onnx_translations", "to_onnx", "to_package"]
