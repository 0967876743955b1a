"""An inference engine with threads of its own, in a process of its own, whose threads sleep while other contenders run.

    python -m benchmarks.engine_process onnxruntime|openvino MODEL.onnx INPUT.npy THREADS

answers every line on its standard input with the result of one run, as .npy on its standard output.
"""

from __future__ import annotations

import importlib.util
import io
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

import numpy
import torch
from torch import Tensor, nn

ENGINES = ("onnxruntime", "openvino")


def installed(engine: str) -> bool:
    return importlib.util.find_spec(engine) is not None


class EngineProcess:
    """Calling it runs the model once over x, as the engine computes it, and returns its result."""

    def __init__(self, engine: str, model: nn.Module, x: Tensor) -> None:
        self.folder = tempfile.TemporaryDirectory()
        path, data = pathlib.Path(self.folder.name) / "model.onnx", pathlib.Path(self.folder.name) / "x.npy"
        torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
        numpy.save(data, x.numpy())
        threads = str(torch.get_num_threads())
        command = [sys.executable, "-m", "benchmarks.engine_process", engine, str(path), str(data), threads]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self) -> Tensor:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        length = int.from_bytes(self.process.stdout.read(8), "little")
        return torch.from_numpy(numpy.load(io.BytesIO(self.process.stdout.read(length))))

    def __del__(self) -> None:
        process = getattr(self, "process", None)
        if process is not None:
            process.stdin.close()
            process.wait(10)


def onnxruntime(model: str, x: numpy.ndarray, threads: int) -> Callable[[], numpy.ndarray]:
    import onnxruntime as engine

    options = engine.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # between runs nobody waits busily
    session = engine.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, inputs)[0]


def openvino(model: str, x: numpy.ndarray, threads: int) -> Callable[[], numpy.ndarray]:
    import openvino as engine

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = engine.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()

    def run() -> numpy.ndarray:
        request.infer([x])
        return request.get_output_tensor(0).data

    return run


def main(engine: str, model: str, data: str, threads: str) -> None:
    run = {"onnxruntime": onnxruntime, "openvino": openvino}[engine](model, numpy.load(data), int(threads))
    while sys.stdin.buffer.readline():
        out = io.BytesIO()
        numpy.save(out, run())
        sys.stdout.buffer.write(len(out.getvalue()).to_bytes(8, "little") + out.getvalue())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
