"""Pose networks: beside timm, torchvision and pytorchcv with the same weights, and beside the paper written out again."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import cnnkernels
from cnnkernels.models import create_model, list_models, model_entry
from cnnkernels.models.cost import cost
from cnnkernels.models.hourglass import StackedHourglass
from cnnkernels.models.pose_hrnet import PoseHRNet
from cnnkernels.models.pose_resnet import PoseResNet
from tests.networks.case import calibrate, copy_weights, images, randomise
from tests.oracles import pytorchcv_model, timm_model, torchvision_model

SMALL = {
    "hrnet": (lambda: PoseHRNet(8, num_classes=5), {"bn_act_train", "upsample_add"}),
    "resnet": (lambda: PoseResNet((1, 1, 1, 1), num_classes=5), {"bn_act_train"}),
    "hourglass": (lambda: StackedHourglass(2, num_classes=5), {"bn_act_train", "upsample_add"}),
}
small = pytest.mark.parametrize("kind", SMALL)


def close(actual, expected, tolerance=1e-4):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


def prepared(model, size=64):
    """With weights of a trained network's kind, in evaluation."""
    randomise(model)
    calibrate(model, size)
    return model.eval()


def on_meta(name, **kw):
    with torch.device("meta"):
        return create_model(name, **kw)


# ---- Against other packages -------------------------------------------------------------------------------------------


def test_hrnet_as_timm():
    """timm's classification network has the same trunk; its last module also computes branches that pose needs not."""
    ours, other = prepared(create_model("pose_hrnet_w32_256x192")), timm_model("hrnet_w32").eval()
    trunk = {k: v for k, v in ours.state_dict().items() if not k.startswith("final_layer.")}
    missing, unexpected = other.load_state_dict(trunk, strict=False)
    assert not unexpected
    only_theirs = ("stage4.2.fuse_layers", "incre_modules", "downsamp_modules", "final_layer", "classifier")
    assert all(k.startswith(only_theirs) for k in missing)
    x = images(2, 96, 64)
    with torch.no_grad():
        stem = other.act2(other.bn2(other.conv2(other.act1(other.bn1(other.conv1(x))))))
        features = other.stages(stem)[0]
        y = ours(x)
        assert y.shape == (2, 17, 24, 16)
        close(ours.forward_features(x), features)
        close(y, F.conv2d(features, ours.final_layer.weight, ours.final_layer.bias))


def test_resnet_as_torchvision():
    ours, trunk = prepared(create_model("pose_resnet50_256x192")), torchvision_model("resnet50").eval()
    state = ours.state_dict()
    head = ("deconv_layers.", "final_layer.")
    missing, unexpected = trunk.load_state_dict(
        {k: v for k, v in state.items() if not k.startswith(head)}, strict=False
    )
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    trunk.avgpool = trunk.fc = nn.Identity()
    deconvs = nn.Sequential()
    for channels in (2048, 256, 256):
        deconvs.extend([nn.ConvTranspose2d(channels, 256, 4, 2, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU()])
    prefix = "deconv_layers."
    deconvs.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, strict=True)
    deconvs.eval()
    x = images(2, 96, 64)
    with torch.no_grad():
        features = deconvs(trunk(x).unflatten(1, (2048, 3, 2)))
        y = ours(x)
        assert y.shape == (2, 17, 24, 16)
        close(y, F.conv2d(features, state["final_layer.weight"], state["final_layer.bias"]))


def test_resnet_as_pytorchcv():
    ours = prepared(create_model("pose_resnet50_256x192"))
    other = pytorchcv_model("simplepose_resnet50b_coco", return_heatmap=True).eval()
    copy_weights(ours, other, by_order=True)
    x = images(1, 64, 96)
    with torch.no_grad():
        close(ours(x), other(x))


# ---- The hourglass, from its figures -----------------------------------------------------------------------------------


class Counter:
    """Sums the layers of the stacked hourglass, read off figures 3 and 4 and the authors' hg.lua (Torch)."""

    def __init__(self):
        self.parameters = self.macs = self.keys = 0

    def conv(self, channels, out, kernel, size):
        weights = channels * out * kernel**2
        self.parameters += weights + out
        self.macs += weights * size**2
        self.keys += 2

    def norm(self, channels):
        self.parameters += 2 * channels
        self.keys += 5

    def residual(self, channels, out, size):
        half = out // 2
        for c_in, c_out, kernel in ((channels, half, 1), (half, half, 3), (half, out, 1)):
            self.norm(c_in)
            self.conv(c_in, c_out, kernel, size)
        if channels != out:
            self.conv(channels, out, 1, size)

    def stacked(self, stacks, joints):
        self.conv(3, 64, 7, 128)
        self.norm(64)
        self.residual(64, 128, 128)
        self.residual(128, 128, 64)
        self.residual(128, 256, 64)
        for stack in range(stacks):
            for size in (64, 32, 16, 8):
                for at in (size, size // 2, size // 2):  # beside the lower part; on its way down; on its way up
                    self.residual(256, 256, at)
            self.residual(256, 256, 4)
            self.residual(256, 256, 64)
            self.conv(256, 256, 1, 64)
            self.norm(256)
            self.conv(256, joints, 1, 64)
            if stack < stacks - 1:
                self.conv(256, 256, 1, 64)
                self.conv(joints, 256, 1, 64)
        return self.parameters, self.macs, self.keys


@pytest.mark.parametrize("stacks", [1, 2, 8])
def test_hourglass_counts(stacks):
    model = on_meta(f"hourglass_s{stacks}")
    counted = cost(model, (1, 3, 256, 256))
    assert (counted.parameters, counted.macs, len(model.state_dict())) == Counter().stacked(stacks, 16)


class PlainHourglass:
    """The same network as functions of a state_dict."""

    def __init__(self, state):
        self.state = state

    def conv(self, x, name, **kw):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **kw)

    def norm_relu(self, x, name):
        mean, var, weight, bias = (self.state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias).relu()

    def residual(self, x, name):
        y = x
        for i in (1, 2, 3):
            y = self.conv(self.norm_relu(y, f"{name}.bn{i}"), f"{name}.conv{i}", padding=int(i == 2))
        widened = f"{name}.skip_layer.weight" in self.state
        return y + (self.conv(x, f"{name}.skip_layer") if widened else x)

    def hourglass(self, x, name, depth):
        y = self.residual(F.max_pool2d(x, 2), f"{name}.low1")
        y = self.hourglass(y, f"{name}.low2", depth - 1) if depth > 1 else self.residual(y, f"{name}.low2")
        y = self.residual(y, f"{name}.low3").repeat_interleave(2, 2).repeat_interleave(2, 3)
        return self.residual(x, f"{name}.up1") + y

    def __call__(self, x, stacks):
        y = self.norm_relu(self.conv(x, "pre.0.conv", stride=2, padding=3), "pre.0.bn")
        y = F.max_pool2d(self.residual(y, "pre.1"), 2)
        y = self.residual(self.residual(y, "pre.3"), "pre.4")
        heatmaps = []
        for i in range(stacks):
            seen = self.residual(self.hourglass(y, f"hgs.{i}", 4), f"features.{i}.0")
            seen = self.norm_relu(self.conv(seen, f"features.{i}.1.conv"), f"features.{i}.1.bn")
            heatmaps.append(self.conv(seen, f"outs.{i}"))
            if i < stacks - 1:
                y = y + self.conv(seen, f"merge_features.{i}") + self.conv(heatmaps[-1], f"merge_preds.{i}")
        return heatmaps


def test_hourglass_as_written_out():
    ours = prepared(create_model("hourglass_s2"))
    x = images(2, 64, 128)
    with torch.no_grad():
        expected = PlainHourglass(ours.state_dict())(x, 2)
        for a, b in zip(ours.every_stack(x), expected, strict=True):
            close(a, b)
        close(ours(x), expected[-1])


def test_hourglass_supervises_every_stack():
    model = StackedHourglass(2, num_classes=3).train()
    every = model(images(2, 64))
    assert [m.shape for m in every] == [(2, 3, 16, 16)] * 2
    sum(m.square().mean() for m in every).backward()
    assert all(p.grad is not None for p in model.parameters())


# ---- Fused and plain ---------------------------------------------------------------------------------------------------


@small
def test_fused_as_plain(kind, monkeypatch):
    """In evaluation no ordinary convolution is called as a module on the fused path."""
    model = prepared(SMALL[kind][0]())
    called = []
    convolution = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: (called.append(self), convolution(self, x))[1])
    x = images(2, 64, 128)
    with torch.no_grad():
        y = model(x)
        expected_calls = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        fused_calls, model.backend = len(called), "reference"
        plain = model(x)
    assert y.abs().max() > 1e-3
    assert fused_calls < len(called) - fused_calls == len(expected_calls)
    close(y, plain)


@small
def test_training_step_fused_as_plain(kind):
    """Loss, every gradient and every running statistic in float64.

    The hourglass keeps 2 x 2 pixels at its bottom: statistics of single ones would amplify rounding.
    """
    make, ops = SMALL[kind]
    ours = make()
    randomise(ours)
    ours.double().train()
    plain = copy.deepcopy(ours)
    plain.backend = "reference"
    x = images(2, 128 if kind == "hourglass" else 64).double()
    losses = []
    for model in (ours, plain):
        with cnnkernels.record_backends() as runs:
            maps = model(x)
            every = maps if isinstance(maps, list) else [maps]
            loss = sum((m - 0.1).square().mean() for m in every)
            loss.backward()
        losses.append(loss.detach())
        if model is ours:
            assert ops <= {r.op for r in runs}
            assert {r.backend for r in runs} == {"cpu"}
    close(*losses, 1e-9)
    largest = max(p.grad.abs().max().item() for p in plain.parameters())
    for (name, p), q in zip(ours.named_parameters(), plain.parameters(), strict=True):
        # A bias before BatchNorm has a gradient of zero, which both compute as rounding errors.
        atol = 1e-8 * q.grad.abs().max().item() + 1e-12 * largest
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=atol, msg=name)
    for a, b in zip(ours.buffers(), plain.buffers(), strict=True):
        close(a, b, 1e-9)


# ---- What every pose network does ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_models(task="pose"))
def test_heatmaps_are_a_quarter_of_the_image(name):
    height, width = model_entry(name).image_size
    model = on_meta(name, in_chans=1).eval()
    y = model(torch.zeros(2, 1, height, width, device="meta"))
    assert y.shape == (2, 16 if "mpii" in name or "hourglass" in name else 17, height // 4, width // 4)
    assert y.shape[1] == model.num_classes
    assert on_meta(name, num_classes=3).eval()(torch.zeros(1, 3, 64, 128, device="meta")).shape == (1, 3, 16, 32)


@pytest.mark.parametrize("name", ["pose_hrnet_w32_256x192", "pose_resnet50_256x192"])
def test_another_set_of_key_points(name):
    model = on_meta(name, num_classes=0).eval()
    x = torch.zeros(1, 3, 64, 64, device="meta")
    assert model(x).shape == (1, model.num_features, 16, 16)
    model.reset_classifier(4)
    assert model(x).shape == (1, 4, 16, 16)
    assert isinstance(model.final_layer, nn.Conv2d)


@small
@pytest.mark.parametrize("shape", [(1, 3, 40, 64), (1, 3, 64, 40), (1, 3, 0, 64), (3, 64, 64)])
def test_other_sizes_are_refused(kind, shape):
    with pytest.raises(ValueError, match="multiples of"):
        SMALL[kind][0]()(torch.zeros(shape))


@pytest.mark.parametrize("config", [{"stacks": 0}, {"stacks": 1, "num_classes": 0}])
def test_hourglass_without_heatmaps_is_refused(config):
    with pytest.raises(ValueError, match="at least 1"):
        StackedHourglass(**config)


@small
def test_empty_batch(kind):
    model = SMALL[kind][0]().eval()
    with torch.no_grad():
        assert model(torch.zeros(0, 3, 64, 64)).shape == (0, 5, 16, 16)


@pytest.mark.parametrize("kind", ["hrnet", "resnet"])
def test_initial_weights(kind):
    """Of every convolution normal with deviation 0.001, biases zero."""
    torch.manual_seed(0)
    model = SMALL[kind][0]()
    convolutions = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    numbers = torch.cat([m.weight.flatten() for m in convolutions])
    assert abs(numbers.mean().item()) < 2e-6
    assert abs(numbers.std().item() - 1e-3) < 2e-6
    assert not model.final_layer.bias.any()


def test_checkpoint_loads(tmp_path):
    model = create_model("pose_resnet50_256x192")
    torch.save(model.state_dict(), tmp_path / "pose.pth")
    loaded = create_model("pose_resnet50_256x192", pretrained=tmp_path / "pose.pth")
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert {k.split(".")[1] for k in model.state_dict() if k.startswith("deconv_layers.")} == set("013467")
    with pytest.raises(ValueError, match=r"final_layer\.weight"):
        create_model("pose_resnet50_256x192", num_classes=16, pretrained=tmp_path / "pose.pth")
