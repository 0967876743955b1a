"""MobileNetV2 against torchvision's: keys, counts, outputs, a training step; checkpoints that fit and that do not."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import cnnkernels
from cnnkernels.demo import EagerMobileNetV2
from cnnkernels.models import create_model, list_models
from cnnkernels.nn import FusedSequential
from tests import torchvision_oracle

MODEL = "mobilenet_v2"


def photo(n=2, size=64, c=3):
    torch.manual_seed(3)
    return torch.randn(n, c, size, size)


@pytest.fixture(scope="module")
def torchvision_models():
    torchvision = torchvision_oracle.torchvision()
    if torchvision is None:
        pytest.skip(torchvision_oracle.why_not())
    import torchvision.models

    return torchvision.models


def calibrated(model, x):
    """Running statistics that fit the weights, as after training; without them activations of a random net explode."""
    with torch.no_grad():
        for _ in range(20):
            model.train()(x)
    return model


def pair(make_expected, **kw):
    torch.manual_seed(0)
    ours = create_model(MODEL, drop_rate=0.0, **kw)
    expected = make_expected()
    expected.load_state_dict(ours.state_dict(), strict=True)
    return ours, expected


def eager():
    return EagerMobileNetV2()


# ---- structure -------------------------------------------------------------------------------------------------------


def test_registry():
    assert MODEL in list_models("mobilenet*")
    assert set(list_models("mobilenet*")) < set(list_models())
    assert list_models("nothing*") == []
    with pytest.raises(ValueError, match=r"no network called 'mobilenet_v'; similar: .*mobilenet_v2"):
        create_model("mobilenet_v")


def test_size():
    model = create_model(MODEL)
    assert sum(p.numel() for p in model.parameters()) == 3_504_872
    assert len(model.state_dict()) == 314


@pytest.mark.parametrize("training", [False, True])
def test_multiply_adds(training):
    model = create_model(MODEL).train(training)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(photo(2 if training else 1, 224))
    assert counter.get_total_flops() / (2 if training else 1) / 2 == pytest.approx(0.301e9, rel=2e-3)


def test_same_keys_and_initialisation_as_torchvision(torchvision_models):
    torch.manual_seed(0)
    expected = torchvision_models.mobilenet_v2()
    torch.manual_seed(0)
    ours = create_model(MODEL)
    a, b = ours.state_dict(), expected.state_dict()
    assert list(a) == list(b)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in expected.named_parameters()]
    assert [v.shape for v in a.values()] == [v.shape for v in b.values()]
    for name, ours_, theirs in ((k, a[k], b[k]) for k in a if b[k].numel() > 5000):
        assert ours_.std().item() == pytest.approx(theirs.std().item(), rel=0.1), name


@pytest.mark.parametrize("width", [0.35, 0.5, 1.4])
def test_widths_as_torchvision(torchvision_models, width):
    expected = torchvision_models.MobileNetV2(width_mult=width, num_classes=7)
    create_model(MODEL, width_mult=width, num_classes=7).load_state_dict(expected.state_dict(), strict=True)


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", ["torchvision", "eager"])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_evaluation(make, grad, layout, request):
    make = request.getfixturevalue("torchvision_models").mobilenet_v2 if make == "torchvision" else eager
    ours, expected = pair(make)
    x = photo().to(memory_format=layout)
    calibrated(expected, x)
    ours.load_state_dict(expected.state_dict())
    with torch.set_grad_enabled(grad), cnnkernels.record_backends() as runs:
        y, z = ours.eval()(x), expected.eval()(x)
    assert sum(r.op == "dwconv_bn_act" for r in runs) == 17
    assert all(r.reason is None for r in runs)
    assert (y - z).abs().max() < 1e-4 * z.abs().max()


def test_training_step(torchvision_models):
    ours, expected = pair(lambda: torchvision_models.mobilenet_v2(dropout=0.0))
    # In double: with batch statistics of few values, fp32 rounding alone moves gradients by more than a per mille.
    ours, expected = ours.double(), expected.double()
    x, target = photo(4).double(), torch.tensor([1, 5, 7, 9])
    losses = []
    for model in (ours, expected):
        with cnnkernels.record_backends() as runs:
            loss = nn.functional.cross_entropy(model.train()(x), target)
        loss.backward()
        losses.append(loss.item())
        count = sum(r.op == "dwconv_bn_act_train" for r in runs), sum(r.op == "bn_act_train" for r in runs)
        assert count == ((17, 35) if model is ours else (0, 0))
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    for (name, p), q in zip(ours.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-9 * q.grad.abs().max().item() + 1e-12, msg=name)
    for (name, a), b in zip(ours.named_buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=name)


def test_training_step_in_float32_is_as_exact_as_eager():
    """Distance of every gradient to float64, against the distance that eager PyTorch has.

    With SiLU: at ReLU6's corners one rounding more or less switches an element off, which moves the gradient of any
    implementation, eager's too, by up to 1e-2, and not by the same amount twice.
    """
    ours, expected = pair(EagerMobileNetV2)
    for model in (ours, expected):
        for m in list(model.modules()):
            for name, child in m.named_children():
                if isinstance(child, nn.ReLU6):
                    setattr(m, name, nn.SiLU())
    expected.classifier[0].p = 0.0
    exact = copy.deepcopy(expected).double()
    x, target = photo(8), torch.arange(8)
    gradients = []
    for model, images in ((ours, x), (expected, x), (exact, x.double())):
        nn.functional.cross_entropy(model.train()(images), target).backward()
        gradients.append(torch.cat([p.grad.flatten().double() for p in model.parameters()]))
    a, b, reference = gradients
    assert (a - reference).norm() < 2 * (b - reference).norm() + 1e-6 * reference.norm()


def test_compiled_network_equals():
    model = create_model(MODEL, num_classes=10).eval()
    calibrated(model, photo()).eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        y = model(photo())
        torch.testing.assert_close(compiled(photo()), y, rtol=1e-4, atol=1e-4 * y.abs().max().item())


def test_fused_blocks_of_the_network():
    """What timm's reparameterize_model does: replace every child that has fuse() by its result."""

    def fuse_children(module):
        for name, child in module.named_children():
            if hasattr(child, "fuse"):
                setattr(module, name, child.fuse())
            else:
                fuse_children(child)

    model = calibrated(create_model(MODEL, num_classes=10), photo()).eval()
    deployed = copy.deepcopy(model)
    fuse_children(deployed)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in deployed.modules())
    with torch.no_grad():
        y = model(photo())
        torch.testing.assert_close(deployed(photo()), y, rtol=1e-4, atol=1e-4 * y.abs().max().item())
    for m in deployed.modules():
        if isinstance(m, FusedSequential):
            assert m.unfuse() is not m


def test_features_only():
    model = create_model(MODEL, features_only=True).eval()
    assert model.strides == [2, 4, 8, 16, 32]
    assert model.channels == [16, 24, 32, 96, 320]
    with torch.no_grad():
        maps = model(photo(1, 96))
        whole = create_model(MODEL).eval()
        whole.load_state_dict(model.state_dict(), strict=False)
        last = whole.features[:-1](photo(1, 96))
    assert [tuple(m.shape) for m in maps] == [
        (1, c, 96 // s, 96 // s) for c, s in zip(model.channels, model.strides, strict=True)
    ]
    torch.testing.assert_close(maps[-1], last, rtol=1e-4, atol=1e-4 * last.abs().max().item())


def test_other_input_channels_and_classes():
    assert create_model(MODEL, in_chans=1, num_classes=5).eval()(photo(2, 32, 1)).shape == (2, 5)


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def test_pretrained_round_trip(tmp_path):
    model = calibrated(create_model(MODEL, num_classes=10), photo())
    path = tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    for given in (path, str(path)):
        loaded = create_model(MODEL, pretrained=given, num_classes=10)
        for (k, a), b in zip(loaded.state_dict().items(), model.state_dict().values(), strict=True):
            assert torch.equal(a, b), k
    features = create_model(MODEL, pretrained=path, features_only=True)
    assert torch.equal(features.features[17].conv[3].running_var, model.features[17].conv[3].running_var)
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, path)
    create_model(MODEL, pretrained=path, num_classes=10)


def test_safetensors_round_trip(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model = create_model(MODEL, num_classes=10)
    safetensors.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    loaded = create_model(MODEL, pretrained=tmp_path / "weights.safetensors", num_classes=10)
    for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_checkpoint_that_does_not_fit(tmp_path):
    from cnnkernels.models.checkpoint import load_weights

    state = create_model(MODEL, num_classes=10).state_dict()
    del state["features.3.conv.1.0.weight"]
    state["extra.weight"] = torch.zeros(1)
    state["features.0.1.bias"] = torch.zeros(3)
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    model = create_model(MODEL, num_classes=10)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="does not fit MobileNetV2") as error:
        load_weights(model, path)
    message = str(error.value)
    assert "1 missing: features.3.conv.1.0.weight" in message
    assert "1 unexpected: extra.weight" in message
    assert "1 of another shape: features.0.1.bias (file [3], model [32])" in message
    for k, v in model.state_dict().items():
        assert torch.equal(v, before[k])


def test_never_unpickles(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("unpickled",))

    path = tmp_path / "weights.pth"
    torch.save({"features.0.0.weight": Trap()}, path)
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        create_model(MODEL, pretrained=path)


def test_bad_pretrained(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        create_model(MODEL, pretrained=tmp_path / "absent.pth")
    with pytest.raises(ValueError, match="nothing is downloaded"):
        create_model(MODEL, pretrained=True)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="does not hold a state_dict"):
        create_model(MODEL, pretrained=tmp_path / "list.pth")
