"""onnxruntime in a process of its own, whose threads sleep while the other contenders run.

    python -m benchmarks.onnx_process MODEL.onnx INPUT.npy THREADS

answers every line on its standard input with the result of one run, as .npy on its standard output.
"""

from __future__ import annotations

import io
import pathlib
import subprocess
import sys
import tempfile

import numpy
import torch
from torch import Tensor, nn


class OnnxProcess:
    """Calling it runs the model once over x, as onnxruntime computes it, and returns its result."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.folder = tempfile.TemporaryDirectory()
        path, data = pathlib.Path(self.folder.name) / "model.onnx", pathlib.Path(self.folder.name) / "x.npy"
        torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
        numpy.save(data, x.numpy())
        command = [sys.executable, "-m", "benchmarks.onnx_process", str(path), str(data), str(torch.get_num_threads())]
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


def main(model: str, data: str, threads: str) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.add_session_config_entry("session.force_spinning_stop", "1")  # between runs nobody waits busily
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: numpy.load(data)}
    while sys.stdin.buffer.readline():
        out = io.BytesIO()
        numpy.save(out, session.run(None, inputs)[0])
        sys.stdout.buffer.write(len(out.getvalue()).to_bytes(8, "little") + out.getvalue())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
