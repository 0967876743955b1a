"""Mode "train": the losses, gradients and statistics of the network's own modules, step after step."""

import copy
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cnnkernels.optimize import _choose, api, optimize
from cnnkernels.optimize._measure import Latencies, trains_faster_in_channels_last

from .optimize_oracle import Small, called, image, needs_torchvision, ready, relative, same_step, swapped, torchvision


class Tiny(nn.Module):
    """A network of every kind of unit that trains, 16 x 16 images, 5 classes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU())
        self.expand = nn.Sequential(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.Hardswish())
        self.depthwise = nn.Sequential(
            nn.Conv2d(32, 32, 5, 1, 2, groups=32, bias=False), nn.BatchNorm2d(32), nn.ReLU6()
        )
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 8, 1), nn.ReLU(), nn.Conv2d(8, 32, 1), nn.Sigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.dense = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16))
        self.head = nn.Sequential(nn.Dropout(0.0), nn.Linear(16, 5))

    def forward(self, x):
        x = self.stem(x)
        y = self.depthwise(self.expand(x))
        x = x + self.project(y * self.se(y))
        x = F.relu(self.dense(x) + x)
        return self.head(x.mean((2, 3)))


KINDS = {"conv": 3, "squeeze_excite": 1, "conv_sum": 2, "linear": 1}
OPS = {"bn_act_train": 4, "dwconv_bn_act_train": 1, "squeeze_excite": 1}


def losses(model, dtype, steps=30):
    torch.manual_seed(1)
    data = torch.randn(4, 8, 3, 16, 16, dtype=torch.float64).to(dtype)
    labels = torch.randint(5, (4, 8))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    curve = []
    for i in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(data[i % 4]), labels[i % 4])
        loss.backward()
        optimizer.step()
        curve.append(float(loss.detach()))
    return curve


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)], ids=["fp32", "fp64"])
def test_loss_curve(dtype, tolerance):
    torch.manual_seed(0)
    model = Tiny().to(dtype).train()
    plain = copy.deepcopy(model)
    fast, report = optimize(model, torch.randn(8, 3, 16, 16, dtype=dtype), "train", tune=False)
    assert swapped(report) == KINDS, str(report)
    ours, theirs = losses(fast, dtype), losses(plain, dtype)
    assert theirs[-1] < 0.5 * theirs[0]  # it learns, so that there is something to compare
    for a, b in zip(ours, theirs, strict=True):
        assert abs(a - b) <= tolerance * abs(b)
    for (name, a), (_, b) in zip(fast.state_dict().items(), plain.state_dict().items(), strict=True):
        assert relative(a, b) <= 100 * tolerance, name
    assert called(copy.deepcopy(fast), torch.randn(8, 3, 16, 16, dtype=dtype))[1] == OPS
    fast.eval(), plain.eval()
    with torch.no_grad():
        x = torch.randn(3, 3, 16, 16, dtype=dtype)
        assert relative(fast(x), plain(x)) <= 100 * tolerance


def test_training_the_result_trains_the_network_given():
    model = ready(Small(), "train")
    before = model.stem[0].weight.detach().clone()
    fast, _ = optimize(model, image(), "train", tune=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)  # of the one
    fast(image()).square().mean().backward()  # through the other
    optimizer.step()
    assert not torch.equal(model.stem[0].weight, before)
    assert int(model.stem[1].num_batches_tracked) == 1


def test_one_step_in_float64_is_the_modules_to_twelve_digits():
    torch.manual_seed(0)
    model = Tiny().double().train()
    x = image(dtype=torch.float64)
    fast, _ = optimize(model, x, "train", tune=False)
    same_step(fast, model, x, 1e-12)


def test_gradient_accumulation_and_checkpointing():
    torch.manual_seed(0)
    model, x = Tiny().train(), image(n=4)
    plain = copy.deepcopy(model)
    fast, _ = optimize(model, x, "train", tune=False)
    for m in (fast, plain):
        for half in x.chunk(2):
            m(half).square().sum().backward()
    for (name, a), b in zip(fast.named_parameters(), plain.parameters(), strict=True):
        assert relative(a.grad, b.grad) < 1e-3, name
    twice = torch.utils.checkpoint.checkpoint(fast, x, use_reentrant=False)
    torch.testing.assert_close(twice, plain(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_autocast(dtype):
    torch.manual_seed(0)
    model, x = Tiny().train(), image()
    plain = copy.deepcopy(model)
    fast, _ = optimize(model, x, "train", tune=False)
    truth = copy.deepcopy(plain)(x)
    with torch.autocast("cpu", dtype):
        ours, theirs = fast(x), plain(x)
    assert ours.dtype is theirs.dtype is dtype
    # not further from float32 than the modules are, within a factor that the roundings' luck may make
    assert relative(ours, truth) <= 3 * relative(theirs, truth) + 1e-2
    ours.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in fast.parameters())


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_autocast_in_evaluation(mode):
    torch.manual_seed(0)
    model, x = ready(Tiny(), mode), image()
    fast, _ = optimize(model, x, mode, tune=False)
    model.eval(), fast.eval()
    with torch.no_grad():
        truth = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            ours, theirs = fast(x), model(x)
    assert ours.dtype is theirs.dtype
    assert relative(ours, truth) <= 3 * relative(theirs, truth) + 1e-2


def test_dropout_draws_at_every_step():
    model = ready(Small(0.5), "train")
    fast, _ = optimize(model, image(), "train", tune=False)
    torch.manual_seed(1)
    a, b = fast(image()), fast(image())
    assert not torch.equal(a, b)
    torch.manual_seed(1)
    torch.testing.assert_close(fast(image()), a, rtol=1e-5, atol=1e-5)
    fast.eval()
    assert torch.equal(fast(image()), fast(image()))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_step_of_a_network(name):
    needs_torchvision()
    torch.manual_seed(0)
    # Dropout draws by the order of memory, which differs between layouts.
    options = {"dropout": 0.0} if name.startswith("mobilenet") else {}
    model = torchvision().models.get_model(name, num_classes=10, **options).train()
    x = image(size=64, n=4)
    fast, report = optimize(model, x, "train", tune=False)
    assert not [e for e in report.entries if e.status == "undone"], str(report)
    model.double()
    wide = copy.deepcopy(model)
    model.float()
    # A BatchNorm at a few pixels amplifies rounding: fp64 shows whether it is that.
    fast_wide, _ = optimize(wide, x.double(), "train", tune=False)
    same_step(fast_wide, wide, x.double(), 1e-7)
    with torch.no_grad():
        assert relative(fast(x), model(x)) < 1e-3


class Slower(nn.Module):
    """A module that takes its time in one layout."""

    def __init__(self, layout):
        super().__init__()
        self.layout, self.weight = layout, nn.Parameter(torch.ones(()))

    def forward(self, x):
        if x.is_contiguous(memory_format=self.layout):
            time.sleep(0.01)
        return x * self.weight


@pytest.mark.parametrize("slow", [torch.contiguous_format, torch.channels_last])
def test_layout_that_trains_faster(slow):
    model = Slower(slow)
    assert trains_faster_in_channels_last(model, (image(),)) == (slow is torch.contiguous_format)
    assert model.weight.grad is None


@pytest.mark.parametrize("faster", [True, False])
def test_training_goes_on_in_the_layout_of_the_network(faster, monkeypatch):
    """Unless somebody asks for another one, or for no measurement."""
    monkeypatch.setattr(api, "trains_faster_in_channels_last", lambda *args: faster)
    monkeypatch.setattr(api, "latencies", lambda *args: Latencies(3.0, "contiguous", 1.5, False))
    monkeypatch.setattr(_choose._Judge, "_times", lambda *args: (2.0, 1.0))
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    for options, channels_last in (
        ({}, faster),
        ({"memory_format": torch.channels_last}, True),
        ({"memory_format": torch.contiguous_format}, False),
        ({"tune": False}, True),
    ):
        fast, report = optimize(copy.deepcopy(model), image(), "train", **options)
        assert swapped(report) == {"conv": 1}
        assert fast(image()).is_contiguous(memory_format=torch.channels_last) == channels_last
        assert any("images stay in their layout" in n for n in report.notes) == (not options and not faster)


@pytest.mark.parametrize("tune", [True, False])
def test_layout_in_which_pytorch_overruns_memory_is_not_tried(tune):
    """torch 2.13: the gradient of a strided 1x1 convolution of 3 channels, as RepVGG and MobileOne begin with."""
    model = nn.Sequential(nn.Conv2d(3, 48, 1, 2, bias=False), nn.BatchNorm2d(48), nn.ReLU())
    fast, report = optimize(copy.deepcopy(model), image(), "train", tune=tune)
    assert "images stay in their layout: in channels_last PyTorch's gradient" in str(report.notes)
    same_step(fast, model, image())
    with pytest.raises(ValueError, match="overruns its memory; leave memory_format out"):
        optimize(model, image(), "train", memory_format=torch.channels_last)
    optimize(model.eval(), image(), memory_format=torch.channels_last, tune=False)
