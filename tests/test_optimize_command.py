"""``cnnkernels optimize MODEL``."""

from __future__ import annotations

import json

import pytest
import torch

from cnnkernels import _ext
from cnnkernels.cli import main

from .optimize_oracle import needs_torchvision

pytestmark = pytest.mark.skipif(_ext.module is None, reason=str(_ext.error))

MODEL = """
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())

def broken():
    raise RuntimeError("no weights here")

def number():
    return 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MODEL)
    return path


def test_a_function_of_a_file(file, tmp_path, capsys):
    report, plot = tmp_path / "report.json", tmp_path / "regions.png"
    command = ["optimize", f"{file}:small", "--batch", "2", "--size", "16", "--json", str(report)]
    assert main([*command, "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Sequential, infer, example [2, 3, 16, 16] float32, cpu") and "latency:" in out
    found = json.loads(report.read_text())
    assert found["mode"] == "infer" and [e["kind"] for e in found["entries"]]
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_training_and_dtype(file, capsys):
    assert main(["optimize", f"{file}:small", "--size", "8", "--mode", "train"]) == 0
    assert "Sequential, train, example [1, 3, 8, 8] float32" in capsys.readouterr().out
    assert main(["optimize", f"{file}:small", "--size", "8", "--dtype", "bfloat16"]) == 0
    assert "[1, 3, 8, 8] bfloat16" in capsys.readouterr().out


def test_torchvision(capsys):
    needs_torchvision()
    assert main(["optimize", "torchvision:mobilenet_v3_small", "--size", "32"]) == 0
    assert "MobileNetV3, infer" in capsys.readouterr().out


def test_a_network_of_this_package(capsys):
    assert main(["optimize", "cnnkernels:mobilenet_v1_025", "--size", "32"]) == 0
    assert "it runs on the fused ops by itself" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "options", "code", "message"),
    [
        ("{file}:small", ["--batch", "0"], 2, "--batch, --size, --channels and --threads must be at least 1"),
        ("{file}:small", ["--cuda-graph"], 2, "--cuda-graph is for --mode infer and --device cuda"),
        ("{file}:small", ["--plot", "regions.bmp"], 2, "regions.bmp"),
        ("{file}:small", ["--json", "/nowhere/report.json"], 2, "/nowhere"),
        ("{file}:none", [], 1, "mine.py has no function none"),
        ("{file}:number", [], 1, "it must be a torch.nn.Module, got int"),
        ("{file}:broken", [], 1, "RuntimeError: no weights here"),
        ("{file}:small", ["--channels", "4"], 1, "expected input"),
        ("missing.py:small", [], 1, "missing.py is no Python file"),
        ("mobilenet_v2", [], 1, "the model must be torchvision:NAME, timm:NAME, cnnkernels:NAME or FILE.py:FUNCTION"),
        ("cnnkernels:mobilenet_v9", [], 1, "no network called 'mobilenet_v9'"),
    ],
)
def test_refused(model, options, code, message, file, capsys):
    assert main(["optimize", model.format(file=file), "--size", "8", *options]) == code
    printed = capsys.readouterr()
    assert message in printed.err and "Traceback" not in printed.err and not printed.out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(file, capsys):
    assert main(["optimize", f"{file}:small", "--device", "cuda"]) == 2
    assert "--device cuda: torch sees no GPU here" in capsys.readouterr().err
