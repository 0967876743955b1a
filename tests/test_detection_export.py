"""Detectors as torch.export programs and as ONNX files in onnxruntime: the same boxes as from PyTorch."""

from __future__ import annotations

import io
import json
import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

from cnnkernels import export, ops
from cnnkernels.detection.export import OUTPUTS, Exportable, export_onnx
from cnnkernels.detection.letterbox import prepare
from cnnkernels.models import create_model
from cnnkernels.models.detection_network import DetectionNetwork, Preprocessing

from .networks.case import images, randomise
from .test_nms import random_boxes

SIZE = 96
INF, NAN = math.inf, math.nan


def session(model):
    """onnxruntime's, of a file or of its bytes."""
    runtime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    return runtime.InferenceSession(model, providers=["CPUExecutionProvider"])


def as_onnx(module, example, outputs, **kw):
    pytest.importorskip("onnxscript", reason="pip install onnx onnxscript")
    from cnnkernels.export.onnx_model import onnx_model

    inputs = [f"input_{i}" for i in range(len(example))]
    loaded = session(onnx_model(module, example, inputs=inputs, outputs=outputs, **kw).SerializeToString())
    return lambda *given: loaded.run(None, {n: t.numpy() for n, t in zip(inputs, given, strict=True)})


# ---- NMS -------------------------------------------------------------------------------------------------------------

VARIANTS = {  # name: dtype, threshold, kind, beta, within classes, max_out
    "iou": (torch.float32, 0.5, "iou", 1.0, True, 120),
    "giou": (torch.float32, 0.3, "giou", 1.0, False, 60),
    "half diou": (torch.float16, 0.45, "diou", 0.6, True, 150),
    "ciou": (torch.float32, 0.4, "ciou", 1.0, True, 120),
    "double ciou": (torch.float64, 0.3, "ciou", 1.0, True, 120),
}


class Suppression(nn.Module):
    """Every variant, of the same boxes."""

    def forward(self, boxes, scores, classes):
        found = []
        for dtype, threshold, kind, beta, within_classes, max_out in VARIANTS.values():
            ids = classes if within_classes else None
            found += ops.nms_padded(
                boxes.to(dtype), scores.to(dtype), threshold, kind=kind, beta=beta, class_ids=ids, max_out=max_out
            )
        return tuple(found)


def crowd(seed=0):
    """Two images of 120 boxes; many scores are equal."""
    boxes, scores = random_boxes(240, seed=seed)
    classes = torch.randint(-2, 2, (2, 120), generator=torch.Generator().manual_seed(seed))
    return boxes.float().view(2, 120, 4), scores.float().view(2, 120), classes


def hard_values():
    boxes, scores, classes = crowd(2)
    for image in (0, 1):
        boxes[image, ::9, 1], boxes[image, 1::9, 2] = NAN, INF
        boxes[image, 2::18] = boxes[image, 3::18][:7]
        boxes[image, 4::18, 2] = boxes[image, 4::18, 0]
        boxes[image, 5::18] = boxes[image, 5::18][:, [2, 3, 0, 1]]
        boxes[image, 6] = torch.tensor([-3e38, -3e38, 3e38, 3e38])
        scores[image, ::7], scores[image, 3::14], scores[image, 5::28], scores[image, 6::28] = 0.5, NAN, INF, -INF
        scores[image, 8::30], scores[image, 9::30] = 0.0, -0.0
    return boxes, scores, classes


def nothing_in_one():
    boxes, scores, classes = crowd(3)
    scores[0] = NAN
    return boxes, scores, classes


@pytest.fixture(scope="module")
def suppression():
    return as_onnx(Suppression(), crowd(), [f"output_{i}" for i in range(2 * len(VARIANTS))])


@pytest.mark.parametrize("make", [crowd, hard_values, nothing_in_one])
def test_nms(suppression, make):
    """Decisions are the same bit for bit, and so are the lists of indices."""
    given = make()
    got, want = suppression(*given), Suppression()(*given)
    for i, name in enumerate(VARIANTS):
        assert 40 < want[2 * i + 1].max() < 115
        for output in (2 * i, 2 * i + 1):
            assert got[output].tolist() == want[output].tolist(), name


def test_arctangent():
    """To the last place of a double, which onnxruntime's own has not."""
    pytest.importorskip("onnxscript", reason="pip install onnx onnxscript")
    from onnxscript import DOUBLE

    from cnnkernels.export.onnx_boxes import arctangent

    made = arctangent.to_model_proto(input_types=[DOUBLE[...]] * 2, output_types=[DOUBLE[...]])
    loaded = session(made.SerializeToString())

    def onnx_arctangent(*sides):
        return loaded.run(None, {i.name: t.numpy() for i, t in zip(loaded.get_inputs(), sides, strict=True)})[0]

    sides = torch.tensor([0.0, 1e-30, 1e-3, 0.5, 1.0, 1.5, 3.0, 77.0, 1e4, 1e30], dtype=torch.float64)
    y, x = torch.cartesian_prod(sides, sides).unbind(1)
    np.testing.assert_array_max_ulp(onnx_arctangent(y, x), torch.atan2(y, x).numpy(), maxulp=2)
    y, x = y.float().double(), x.float().double()
    np.testing.assert_array_max_ulp(
        onnx_arctangent(y, x).astype(np.float32), torch.atan2(y, x).float().numpy(), maxulp=0
    )


# ---- a small detector ------------------------------------------------------------------------------------------------


class Small(DetectionNetwork):
    """One box of each cell of 8 pixels, of three classes."""

    preprocessing = Preprocessing(bgr=True)

    def __init__(self):
        super().__init__()
        self.num_classes, self.backend, self.strides = 3, None, (8,)
        self.conv = nn.Conv2d(3, 8, 8, 8)
        randomise(self)

    def raw(self, x):
        return self.conv(x)

    def decode(self, raw):
        y = raw.flatten(2).mT
        return torch.cat((y[..., :4] * 10 + 40, y[..., 4:].sigmoid()), 2)


@pytest.fixture
def small():
    """The network; after the test it must be what it was."""
    network = Small().eval()
    network.backend = "cpu"
    before = {k: v.clone() for k, v in network.state_dict().items()}
    yield network
    assert network.backend == "cpu" and network.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def compare(file, module, x, atol=1e-4):
    """Runs both; boxes to ``atol``, in pixels.  Returns PyTorch's outputs."""
    got = dict(zip(OUTPUTS, session(file).run(list(OUTPUTS), {"images": x.numpy()}), strict=True))
    with torch.no_grad():
        want = dict(zip(OUTPUTS, module(x), strict=True))
    for name in ("count", "labels"):
        assert got[name].dtype == np.int64 and got[name].tolist() == want[name].tolist()
    np.testing.assert_allclose(got["scores"], want["scores"].numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(got["boxes"], want["boxes"].numpy(), rtol=0, atol=atol)
    return want


@pytest.mark.parametrize(
    "options",
    [
        {"score_threshold": 0.2, "kind": "iou", "iou_threshold": 0.3, "class_agnostic": True},
        {"score_threshold": 0.2, "kind": "giou", "iou_threshold": 0.5, "multi_label": True, "max_candidates": 50},
    ],
    ids=["one label", "many labels"],
)
def test_options(small, tmp_path, options):
    """Of another size than square, one image; also where the candidates are fewer than they may be."""
    pytest.importorskip("onnxscript")
    file = tmp_path / "small.onnx"
    export_onnx(small, file, (48, 64), **options)
    want = compare(file, Exportable(small, **options), images(1, 48, 64))
    most = options.get("max_candidates", 48)
    assert 5 < want["count"][0] < most
    about = json.loads(session(file).get_modelmeta().custom_metadata_map["preprocessing"])
    assert about["bgr"] is True and Preprocessing(**about).fill == [114, 114, 114]
    assert [p.name for p in tmp_path.iterdir()] == ["small.onnx"] and not small.training


def test_any_batch_and_opset(small, tmp_path):
    onnx = pytest.importorskip("onnx")
    file = tmp_path / "small.onnx"
    export_onnx(small, file, 32, batch=None, opset=21)
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 21)] and not model.functions
    for n in (1, 3):
        assert compare(file, Exportable(small), images(n, 32))["count"].sum() > 2 * n
    x = images(2, 32)
    x[0] = -small.conv.weight[4].detach().repeat(1, 4, 4)  # in each cell what its objectness dislikes most
    assert (compare(file, Exportable(small), x)["count"] > 0).tolist() == [False, True]


def test_no_file_after_a_failure(small, tmp_path):
    pytest.importorskip("onnxscript")
    with pytest.raises(ValueError, match="multiples of 8"):
        export_onnx(small, tmp_path / "small.onnx", 30)
    with pytest.raises(FileNotFoundError):
        export_onnx(small, tmp_path / "nowhere" / "small.onnx", 32)
    assert not [*tmp_path.iterdir()]


def test_refused(small, tmp_path):
    with pytest.raises(ValueError, match="batch must be at least 1"):
        export_onnx(small, tmp_path / "x.onnx", 32, batch=0)
    with pytest.raises(ValueError, match="opset must be at least 18"):
        export_onnx(small, tmp_path / "x.onnx", 32, opset=17)
    with pytest.raises(TypeError, match="threshold"):
        Exportable(small, threshold=0.5)
    with pytest.raises(ValueError, match="must be in evaluation"):
        Exportable(small.train())


def test_without_the_packages(small, tmp_path, monkeypatch):
    for module in ("_onnxscript", "onnx_boxes", "onnx_nms", "onnx_ops"):
        monkeypatch.delitem(sys.modules, f"cnnkernels.export.{module}", raising=False)
        monkeypatch.delattr(export, module, raising=False)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"pip install cnnkernels\[onnx\]"):
        export_onnx(small, tmp_path / "x.onnx", 32)
    assert not [*tmp_path.iterdir()]


# ---- networks, on a photograph ---------------------------------------------------------------------------------------


def on_photographs(name):
    """(network, inputs): random weights whose running statistics are those of a photograph, two of its parts and grey."""
    photograph = pytest.importorskip("skimage.data", reason="pip install scikit-image").astronaut()
    network = create_model(name, num_classes=20)
    randomise(network)
    pictures = [photograph, photograph[:256], photograph[100:400, 100:400], np.full_like(photograph, 114)]
    x = torch.stack([prepare(p, network.preprocessing, SIZE, adaptive=False)[0] for p in pictures])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        network.train()(x)
        if name.startswith("yolox"):
            for layer in network.head.reg_preds:
                layer.bias[2:] += 2  # larger boxes, which overlap
    return network.eval(), x


def test_program_saved_and_loaded():
    network, x = on_photographs("yolox_nano")
    module = Exportable(network, score_threshold=0.36, iou_threshold=0.3)
    program = torch.export.export(module, (x,))
    called = {str(n.target) for n in program.graph.nodes}
    assert {"cnnkernels.detection_candidates.default", "cnnkernels.nms_padded.default"} <= called
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    with torch.no_grad():
        got, saved, want = torch.export.load(file).module()(x), program.module()(x), module(x)
    assert want[3].min() == 0 and want[3].max() > 10
    assert all(torch.equal(g, s) for g, s in zip(got, saved, strict=True))
    # The program computes layer by layer.  Boxes reach beyond the image, where 1e-4 of it is less than of a coordinate.
    for name, g, w in zip(OUTPUTS, got, want, strict=True):
        boxes = name == "boxes"
        torch.testing.assert_close(g, w, rtol=1e-4 if boxes else 0, atol=1e-4 * SIZE if boxes else 1e-4)


@pytest.mark.parametrize(
    ("name", "score", "kind", "batch"), [("yolox_nano", 0.36, "diou", None), ("yolov4_tiny", 0.38, "iou", 1)]
)
def test_onnxruntime_on_a_photograph(tmp_path, name, score, kind, batch):
    pytest.importorskip("onnxscript")
    network, x = on_photographs(name)
    options = {"score_threshold": score, "iou_threshold": 0.3, "kind": kind, "class_agnostic": batch == 1}
    export_onnx(network, tmp_path / "model.onnx", SIZE, batch=batch, **options)
    module = Exportable(network, **options)
    found = [
        compare(tmp_path / "model.onnx", module, given, atol=1e-4 * SIZE)["count"]
        for given in ((x, x[:1], x[:2]) if batch is None else x.split(1))
    ]
    with torch.no_grad():
        passed = Exportable(network, **options | {"iou_threshold": INF})(x)[3]
    assert 10 < found[0][0] < passed[0]  # the photograph: dozens, and not all are kept
    if name == "yolox_nano":
        assert found[0][3] == 0  # grey
