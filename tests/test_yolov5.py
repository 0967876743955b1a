"""YOLOv5: no package has it under a free licence, so shapes and keys as published, definitions written out, plain modules."""

import builtins
import os
import sys
import types

import pytest
import torch
from torch import nn

import cnnkernels
from cnnkernels.models import create_model, list_models
from cnnkernels.models.pickled_checkpoint import read_pickled
from tests.networks.case import calibrate, images, randomise

NAMES = list_models("yolov5*")
STRIDES, GRIDS = (8, 16, 32), (80, 40, 20)


def test_variants():
    assert sorted([*(f"yolov5{s}" for s in "nsmlx"), *(f"yolov5{s}_v5" for s in "smlx")]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_outputs_at_the_published_size(name):
    """Shapes of predictions, and the first and last keys of the published files."""
    with torch.device("meta"):
        model, x = create_model(name), torch.zeros(1, 3, 640, 640)
    assert [y.shape for y in model(x)] == [(1, 3, s, s, 85) for s in GRIDS]
    assert model.eval()(x).shape == (1, 25200, 85)
    keys = list(model.state_dict())
    stem = "model.0.conv." if name.endswith("_v5") else "model.0."
    assert keys[:3] == [f"{stem}{k}" for k in ("conv.weight", "bn.weight", "bn.bias")]
    assert keys[-3:] == ["model.24.m.1.bias", "model.24.m.2.weight", "model.24.m.2.bias"]
    assert "model.24.anchors" in keys


# The layers that have tensors, by their number in the release's configuration: the shape of the first weight.
SMALL = {
    1: (64, 32, 3, 3),
    2: (32, 64, 1, 1),
    3: (128, 64, 3, 3),
    4: (64, 128, 1, 1),
    5: (256, 128, 3, 3),
    6: (128, 256, 1, 1),
    7: (512, 256, 3, 3),
    8: (256, 512, 1, 1),
    9: (256, 512, 1, 1),
    10: (256, 512, 1, 1),
    13: (128, 512, 1, 1),
    14: (128, 256, 1, 1),
    17: (64, 256, 1, 1),
    18: (128, 128, 3, 3),
    20: (128, 256, 1, 1),
    21: (256, 256, 3, 3),
    23: (256, 512, 1, 1),
}
BLOCKS = {2: 1, 4: 2, 6: 3, 13: 1, 17: 1, 20: 1, 23: 1}


@pytest.mark.parametrize(
    ("name", "stem", "blocks", "pooling"),
    [
        ("yolov5s", ("model.0.conv.weight", (32, 3, 6, 6)), BLOCKS | {8: 1}, 9),
        ("yolov5s_v5", ("model.0.conv.conv.weight", (32, 12, 3, 3)), BLOCKS | {4: 3, 9: 1}, 8),
    ],
)
def test_layers_of_the_small_one(name, stem, blocks, pooling):
    state = create_model(name).state_dict()
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    assert shapes[stem[0]] == stem[1]
    for number, shape in SMALL.items():
        key = next(k for k in shapes if k.startswith(f"model.{number}."))
        assert shapes[key] == shape, key
    chains = {int(k.split(".")[1]): 0 for k in shapes if ".m.0.cv1.conv.weight" in k}
    for number in chains:
        chains[number] = sum(k.startswith(f"model.{number}.m.") and k.endswith("cv1.conv.weight") for k in shapes)
    assert chains == blocks
    assert shapes[f"model.{pooling}.cv2.conv.weight"] == (512, 1024, 1, 1)
    assert shapes["model.24.anchors"] == (3, 3, 2)
    assert [shapes[f"model.24.m.{i}.weight"] for i in range(3)] == [(255, c, 1, 1) for c in (128, 256, 512)]


@pytest.mark.parametrize("name", ["yolov5s", "yolov5s_v5"])
def test_settings(name):
    """Of every batch norm; shortcuts only in the backbone, and there not behind SPP."""
    model = create_model(name)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}
    adding = {int(i) for i, m in model.model.items() for b in m.modules() if getattr(b, "use_add", False)}
    assert adding == ({2, 4, 6} if name.endswith("_v5") else {2, 4, 6, 8})


@pytest.mark.parametrize("name", NAMES)
def test_fused_as_plain(name):
    model = create_model(name)
    randomise(model)
    calibrate(model, 64, 96)
    model.eval()
    x = images(4, 64, 96)
    with torch.no_grad():
        with cnnkernels.record_backends() as runs:
            y = model(x)
        model.backend = "reference"
        with cnnkernels.record_backends() as plain_runs:
            plain = model(x)
    assert 1e-2 < y[..., 5:].std() < 0.4
    for columns in (slice(0, 4), slice(4, None)):
        expected = plain[..., columns]
        torch.testing.assert_close(y[..., columns], expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert {"spp", "pointwise_conv_bn_act"} <= {r.op for r in runs}
    assert ("focus" in {r.op for r in runs}) == name.endswith("_v5")
    assert {r.backend for r in runs} == {"cpu"}
    assert not {r.backend for r in plain_runs} - {"reference"}


def test_training_step_as_plain():
    """Logits, every gradient and running statistic, in float64."""
    results = []
    for backend in (None, "reference"):
        model = create_model("yolov5n", backend=backend)
        randomise(model)
        with cnnkernels.record_backends() as runs:
            raw = model.double()(images(2, 64).double())
            torch.manual_seed(4)
            sum((y * torch.randn(y.shape, dtype=y.dtype)).sum() for y in raw).backward()
        if backend is None:
            assert {("bn_act_train", "cpu"), ("spp", "cpu")} <= {(r.op, r.backend) for r in runs}
        results.append([*raw, *(p.grad for p in model.parameters()), *model.buffers()])
    largest = max(t.abs().max().item() for t in results[1])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-13 * largest)


def test_decode():
    """Against the definition, one candidate after the other, in float64; a checkpoint's own anchors count."""
    own = [[(8 * i + 3, 5 * i + 9) for i in range(j, j + 2)] for j in (1, 7, 40)]
    model = create_model("yolov5n", num_classes=2, anchors=own).eval()
    assert model.anchors == own
    torch.manual_seed(0)
    raw = [torch.randn(2, 2, 64 // s, 96 // s, 7) for s in STRIDES]
    actual = model.decode(raw)
    expected = []
    for level, anchors, stride in zip(raw, own, STRIDES, strict=True):
        s = torch.sigmoid(level.double())
        for a, (width, height) in enumerate(anchors):
            for row in range(level.shape[2]):
                for column in range(level.shape[3]):
                    x, y, w, h, *scores = s[:, a, row, column].unbind(-1)
                    centre = ((2 * x - 0.5 + column) * stride, (2 * y - 0.5 + row) * stride)
                    size = (4 * w * w * width, 4 * h * h * height)
                    expected.append(torch.stack((*centre, *size, *scores), -1))
    torch.testing.assert_close(actual.double(), torch.stack(expected, 1), rtol=1e-5, atol=1e-4)


def test_initial_biases():
    """8 objects per image of 640 pixels over all cells of a level, classes equally rare."""
    model = create_model("yolov5n", num_classes=4)
    other = create_model("yolov5n", num_classes=4)
    other.load_state_dict(model.state_dict())
    for layer, grid in zip(model.model["24"].m, GRIDS, strict=True):
        bias = layer.bias.view(3, 9)
        bound = layer.weight[0].numel() ** -0.5  # of torch's own initial bias, which it is added to
        assert ((bias[:, 4].exp() * grid**2).log() - torch.tensor(8.0).log()).abs().max() <= bound
        assert (bias[:, 5:] - torch.tensor(0.6 / 3.00001).log()).abs().max() <= bound
        assert bias[:, :4].abs().max() <= bound


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match="anchors must be 3 lists of equal length"):
        create_model("yolov5n", anchors=[[(1, 2)], [(3, 4)]])
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        create_model("yolov5n", num_classes=0)
    with pytest.raises(ValueError, match="multiples of 32"):
        create_model("yolov5n")(torch.zeros(1, 3, 64, 80))


# ---- files that hold a whole model ---------------------------------------------------------------------------------------


@pytest.fixture
def foreign(monkeypatch):
    """Makes a model of a class that only the writer of the file has."""
    module = types.ModuleType("models.yolo")
    module.DetectionModel = type("DetectionModel", (nn.Module,), {"__module__": "models.yolo"})
    monkeypatch.setitem(sys.modules, "models", types.ModuleType("models"))
    monkeypatch.setitem(sys.modules, "models.yolo", module)

    def make(ours):
        model = module.DetectionModel()
        model.model = ours.model
        model.names, model.stride, model.yaml = ["person"], torch.tensor([8.0]), {"nc": 80, "anchors": [[10, 13]]}
        model.register_buffer("scratch", torch.zeros(3), persistent=False)
        return model

    return make


def absent(monkeypatch):
    for name in ("models.yolo", "models"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("under", ["model", "ema"])
def test_whole_model_in_half_precision(tmp_path, foreign, monkeypatch, under):
    """As published: half types, beside NumPy's numbers, of a class that is not there when the file is read."""
    ours = create_model("yolov5n")
    randomise(ours)
    expected = {k: v.half().float() if v.is_floating_point() else v for k, v in ours.state_dict().items()}
    content = {"epoch": -1, "best_fitness": torch.rand(1).numpy(), "model": None, "ema": None, "optimizer": None}
    if under == "ema":
        content["model"] = foreign(create_model("yolov5n"))  # another one, which the averaged weights replace
    content[under] = foreign(ours).half()
    torch.save(content, tmp_path / "n.pt")
    absent(monkeypatch)
    loaded = create_model("yolov5n", pretrained=tmp_path / "n.pt")
    assert loaded.state_dict().keys() == expected.keys()
    for key, value in loaded.state_dict().items():
        assert value.dtype is expected[key].dtype
        assert torch.equal(value, expected[key]), key
    with pytest.raises(ValueError, match="of another shape"):
        create_model("yolov5s", pretrained=tmp_path / "n.pt")


def test_state_dict_with_a_second_copy_of_the_anchors(tmp_path):
    """Files of release 5.0 have the anchors once more, in pixels."""
    state = create_model("yolov5s_v5").state_dict()
    torch.save(state | {"model.24.anchor_grid": torch.zeros(3, 1, 3, 1, 1, 2)}, tmp_path / "s.pt")
    loaded = create_model("yolov5s_v5", pretrained=tmp_path / "s.pt").state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in state.items())


class Call:
    """Pickled as a call, which unpickling makes."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(marker):
    write = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Call(os.system, f"touch {marker}"),
        "builtins.eval": Call(builtins.eval, write),
        "builtins.exec": Call(builtins.exec, write),
        "builtins.open": Call(builtins.open, str(marker), "w"),
    }


@pytest.mark.parametrize("attack", list(attacks("")))
def test_code_in_a_file_is_not_run(tmp_path, attack):
    """Refused, or read past, and nothing else; ordinary unpickling does run it."""
    path, marker = tmp_path / "n.pt", tmp_path / "marker"
    state = create_model("yolov5n").state_dict()
    torch.save({"date": attacks(marker)[attack], "model": state}, path)
    if attack == "os.system":
        with pytest.raises(ValueError, match="cannot be read without running code from it"):
            create_model("yolov5n", pretrained=path)
    else:
        loaded = create_model("yolov5n", pretrained=path).state_dict()
        assert all(torch.equal(loaded[k], v) for k, v in state.items())
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_nothing_stays_allowed(tmp_path):
    torch.save({"model": nn.Sequential(nn.Linear(2, 2))}, tmp_path / "m.pt")
    before = torch.serialization.get_safe_globals()
    assert read_pickled(tmp_path / "m.pt").keys() == {"0.weight", "0.bias"}
    assert set(torch.serialization.get_safe_globals()) == set(before)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "m.pt", weights_only=True)


@pytest.mark.parametrize("content", [{"model": [1, 2]}, {"epoch": Call(int, 3)}, Call(int, 3), {}])
def test_files_without_a_model(tmp_path, content):
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(ValueError, match="does not hold a model"):
        read_pickled(tmp_path / "m.pt")


def test_damaged_files(tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"model": nn.Linear(2, 2)}, path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a checkpoint at all"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot be read without running code from it"):
            read_pickled(path)
