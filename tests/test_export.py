"""Four networks as compiled graphs, exported programs, ONNX files and AOTInductor packages: what PyTorch computes."""

from __future__ import annotations

import functools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import cnnkernels
from cnnkernels import _ext, export
from cnnkernels import nn as layers
from cnnkernels.cli import main
from cnnkernels.detection.export import Exportable
from cnnkernels.models import create_model
from cnnkernels.optimize import optimize

from .networks.case import calibrate, images, randomise

pytestmark = pytest.mark.skipif(_ext.module is None, reason=str(_ext.error))

SIZE = 64
OPS = {  # of this package, in the graph of a network in evaluation
    "mobilenet_v3_small": {"bn_act", "dwconv_bn_act", "squeeze_excite"},
    "shufflenet_v2_x0_5": {"bn_act", "channel_shuffle", "concat_shuffle_split", "dwconv_bn_act"},
    "efficientnet_b0": {"bn_act", "dwconv_bn_act", "squeeze_excite"},
    "yolox_nano": {"bn_act", "detection_candidates", "dwconv_bn_act", "focus", "nms_padded", "spp"},
}


@functools.cache
def network(name):
    """In evaluation; a detector with its NMS, which removes boxes."""
    if name != "yolox_nano":
        model = create_model(name, num_classes=20)
        randomise(model)
        calibrate(model, SIZE)
        return model.eval()
    detector = create_model(name, num_classes=20)
    randomise(detector)
    calibrate(detector, SIZE)
    with torch.no_grad():
        for layer in detector.head.reg_preds:
            layer.bias[2:] += 2  # larger boxes, which overlap
    return Exportable(detector.eval(), score_threshold=0.3, iou_threshold=0.3)


def outputs(model, x):
    with torch.no_grad():
        found = model(x)
    return [found] if isinstance(found, torch.Tensor) else list(found)


def assert_alike(got, model, x, tolerance=1e-4):
    """Boxes, in pixels, to ``tolerance`` of the image."""
    want = outputs(model, x)
    assert len(got) == len(want)
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        g = torch.as_tensor(g)
        assert g.dtype is w.dtype and g.shape == w.shape
        if w.is_floating_point():
            size = SIZE if w.dim() == 3 else 1
            torch.testing.assert_close(
                g, w, rtol=tolerance, atol=tolerance * size, msg=lambda m, i=i: f"output {i}: {m}"
            )
        else:
            assert torch.equal(g, w), f"output {i}"


def test_the_detector_has_something_to_do():
    model = network("yolox_nano")
    passed = Exportable(model.network, **model.options | {"iou_threshold": 2.0})
    x = images(3, SIZE)
    assert ((outputs(model, x)[3] > 10) & (outputs(model, x)[3] < outputs(passed, x)[3])).all()


def ops_in(program):
    """Of this package, in an exported program."""
    targets = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    return {t.split(".")[1] for t in targets if t.startswith("cnnkernels.")}


@pytest.mark.parametrize(
    ("name", "backend"), [*((name, "aot_eager") for name in OPS), ("mobilenet_v3_small", "inductor")]
)
def test_compiled_as_one_graph(name, backend):
    """One for all batch sizes, too."""
    torch._dynamo.reset()
    compiled = torch.compile(network(name), backend=backend, fullgraph=True)
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    for x in (images(2, SIZE), images(3, SIZE)):
        torch._dynamo.mark_dynamic(x, 0)
        assert_alike(outputs(compiled, x), network(name), x)
    assert graphs["unique_graphs"] == before + 1


@pytest.mark.parametrize("name", OPS)
def test_program_saved_and_loaded(name, tmp_path):
    with torch.no_grad():
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(network(name), (images(2, SIZE),), dynamic_shapes=shapes, strict=True)
    assert ops_in(program) == OPS[name]
    torch.export.save(program, tmp_path / "program.pt2")
    loaded = torch.export.load(tmp_path / "program.pt2").module()
    for x in (images(1, SIZE), images(3, SIZE)):
        assert_alike(outputs(loaded, x), network(name), x)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0"])
def test_reference_is_free_of_ops(name):
    """For who has PyTorch, but not this package."""
    with torch.no_grad(), cnnkernels.use_backend("reference"):
        assert ops_in(torch.export.export(network(name), (images(2, SIZE),), strict=True)) == set()


# ---- ONNX ------------------------------------------------------------------------------------------------------------


def run_onnx(file, x):
    runtime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})


@pytest.mark.parametrize("name", OPS)
def test_onnx(name, tmp_path):
    pytest.importorskip("onnxscript", reason="pip install onnx onnxscript")
    file = tmp_path / "network.onnx"
    export.to_onnx(network(name), images(1, SIZE), file, inputs=["images"], verify=False)
    for x in (images(1, SIZE), images(3, SIZE)):
        assert_alike(run_onnx(file, x), network(name), x)


class Block(nn.Module):
    """Somebody's, for ``optimize``."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.depthwise, self.bn2 = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16)

    def forward(self, x):
        y = self.bn(self.conv(x)).relu()
        return self.bn2(self.depthwise(y)).relu() + y


@functools.cache
def optimized():
    model = Block()
    randomise(model)
    fast, report = optimize(model.eval(), images(2, 8), tune=False)
    assert report.swapped
    return fast


def test_onnx_of_an_optimised_network(tmp_path):
    pytest.importorskip("onnxscript", reason="pip install onnx onnxscript")
    export.to_onnx(optimized(), images(2, 8), tmp_path / "network.onnx")
    assert_alike(run_onnx(tmp_path / "network.onnx", images(3, 8)), optimized(), images(3, 8))
    onnx = pytest.importorskip("onnx")
    operators = [n.op_type for n in onnx.load(tmp_path / "network.onnx").graph.node]
    assert sorted(operators) == ["Add", "Conv", "Conv", "Relu", "Relu"]  # BatchNorm is in the weights


class Lottery(nn.Module):
    """Computes something else when it is traced."""

    def forward(self, x):
        return x + 1 if torch.compiler.is_compiling() else x


def test_a_file_that_computes_something_else_is_not_written(tmp_path):
    pytest.importorskip("onnxscript", reason="pip install onnx onnxscript")
    pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    with pytest.raises(RuntimeError, match=r"onnxruntime's \w+ differs from PyTorch's by 1, more than 0.0001"):
        export.to_onnx(Lottery().eval(), torch.zeros(2, 3), tmp_path / "x.onnx")
    assert not [*tmp_path.iterdir()]
    export.to_onnx(Lottery().eval(), torch.zeros(2, 3), tmp_path / "x.onnx", verify=False)
    assert np.array_equal(run_onnx(tmp_path / "x.onnx", torch.zeros(4, 3))[0], np.ones((4, 3)))


def test_fixed_batch(tmp_path):
    pytest.importorskip("onnxscript", reason="pip install onnx onnxscript")
    onnx = pytest.importorskip("onnx")
    export.to_onnx(layers.Mish().eval(), torch.zeros(3, 5), tmp_path / "x.onnx", dynamic_batch=False, opset=18)
    made = onnx.load(tmp_path / "x.onnx")
    assert [d.dim_value for d in made.graph.input[0].type.tensor_type.shape.dim] == [3, 5]
    assert [(o.domain, o.version) for o in made.opset_import] == [("", 18)]


@pytest.mark.parametrize("exporter", [export.to_onnx, export.to_package])
def test_refused(exporter, tmp_path):
    x, model, file = torch.zeros(2, 3), nn.Identity().eval(), tmp_path / "x.pt2"
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got function"):
        exporter(lambda x: x, x, file)
    with pytest.raises(ValueError, match=r"must be in evaluation: model.eval\(\)"):
        exporter(nn.Identity().train(), x, file)
    with pytest.raises(TypeError, match="a tensor or a tuple of tensors, got int"):
        exporter(model, (x, 3), file)
    with pytest.raises(ValueError, match=r"must begin with one size, 1 or more, got \[2, 3\], \[3, 3\]"):
        exporter(model, (x, torch.zeros(3, 3)), file)
    with pytest.raises(ValueError, match=r"got \[0, 3\]"):
        exporter(model, torch.zeros(0, 3), file)
    assert not [*tmp_path.iterdir()]


def test_refused_by_one(tmp_path):
    x, model = torch.zeros(2, 3), nn.Identity().eval()
    with pytest.raises(ValueError, match="opset must be at least 18, got 17"):
        export.to_onnx(model, x, tmp_path / "x.onnx", opset=17)
    with pytest.raises(ValueError, match=r"path must end in .pt2, got '.*x.onnx'"):
        export.to_package(model, x, tmp_path / "x.onnx")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        export.load_package(tmp_path / "x.pt2")


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "number"), [("mobilenet_v1_025", 1), ("yolox_nano", 4)])
def test_command(name, number, tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="pip install onnx onnxscript")
    file = tmp_path / "network.onnx"
    assert main(["export", name, "--classes", "7", "--size", "32", "--onnx", str(file)]) == 0
    assert capsys.readouterr().out.endswith(f"wrote {file}\n")
    found = run_onnx(file, images(3, 32))
    assert len(found) == number and len(found[0]) == 3


def test_command_refused(tmp_path, capsys):
    assert main(["export", "yolox_nano"]) == 2
    assert "--onnx FILE or --package FILE.pt2" in capsys.readouterr().err
    assert main(["export", "mobilenet_v9", "--onnx", str(tmp_path / "x.onnx")]) == 1
    assert "no network called 'mobilenet_v9'" in capsys.readouterr().err
    assert main(["export", "shufflenet_v2_x0_5", "--package", str(tmp_path / "x.onnx")]) == 1
    assert "must end in .pt2" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


# ---- packages --------------------------------------------------------------------------------------------------------

IN_A_FRESH_PROCESS = """
import sys, torch
{imports}
package, given, results = sys.argv[1:]
model = {load}(package)
with torch.no_grad():
    torch.save([model(x) for x in torch.load(given)], results)
"""


def in_a_fresh_process(imports, load, package, given, results):
    root = str(pathlib.Path(export.__file__).parent.parent.parent)
    return subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS.format(imports=imports, load=load), package, given, results],
        env={**os.environ, "PYTHONPATH": root},
        cwd=package.parent,
        capture_output=True,
        text=True,
    )


def reloaded(model, example, folder, given):
    """What the package of a model computes in another process, for each of these inputs; and the process."""
    export.to_package(model, example, folder / "network.pt2")
    assert [p.name for p in folder.iterdir()] == ["network.pt2"]
    torch.save(given, folder / "given.pt")
    ours = "from cnnkernels.export import load_package"
    done = in_a_fresh_process(ours, "load_package", folder / "network.pt2", folder / "given.pt", folder / "results.pt")
    assert done.returncode == 0, done.stderr
    return [[y] if isinstance(y, torch.Tensor) else list(y) for y in torch.load(folder / "results.pt")]


@pytest.mark.parametrize("name", OPS)
def test_package(name, tmp_path):
    given = [images(1, SIZE), images(3, SIZE)]
    for x, got in zip(given, reloaded(network(name), images(2, SIZE), tmp_path, given), strict=True):
        assert_alike(got, network(name), x)


def test_package_of_an_optimised_network(tmp_path):
    export.to_package(optimized(), images(2, 8), tmp_path / "network.pt2")
    loaded = export.load_package(tmp_path / "network.pt2")
    with cnnkernels.record_backends() as runs:
        got = outputs(loaded, images(3, 8))
    assert sorted(r.op for r in runs) == ["bn_act", "dwconv_bn_act"]
    assert_alike(got, optimized(), images(3, 8))
    # Without this package nobody knows its ops.
    alone = in_a_fresh_process("", "torch._inductor.aoti_load_package", tmp_path / "network.pt2", "", "")
    assert alone.returncode and "Could not find schema for cnnkernels::" in alone.stderr
