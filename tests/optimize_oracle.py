"""Networks to optimise, and what the result has to equal: the same network's own modules, in float64."""

import copy
from collections import Counter

import pytest
import torch
from torch import nn

import cnnkernels
from cnnkernels.optimize import optimize

from .nn_oracle import randomise
from .torchvision_oracle import torchvision, why_not

MODES = ("infer", "train")


def image(c=3, size=16, n=2, dtype=torch.float32):
    return torch.randn(n, c, size, size, dtype=dtype, generator=torch.Generator().manual_seed(5))


def ready(model, mode="infer"):
    """Statistics as after some training, in the mode that ``optimize`` is asked for."""
    return randomise(model).train(mode == "train")


def swapped(report):
    """How many regions of each kind run fused; those of runs counted one by one."""
    counts = Counter()
    for e in report.swapped:
        counts.update(e.parts or {e.kind: 1})
    return dict(counts)


def relative(a, b):
    """The largest difference in units of b's largest value."""
    a, b = a.detach().double(), b.detach().double()
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))


def called(model, *args, backends=None):
    """``model(*args)`` without gradients; backends: the backends that each op may have run on."""
    with torch.no_grad(), cnnkernels.record_backends() as runs:
        y = model(*args)
    ran = Counter(r.op for r in runs)
    fallen = {(r.op, r.backend, r.reason) for r in runs if r.backend not in (backends or ("cpu",))}
    assert not fallen, fallen
    return y, ran


def exact(model, *args):
    """The network's own modules, in float64, on a copy."""
    twin = copy.deepcopy(model).double()
    with torch.no_grad():
        return twin(*(a.double() for a in args))


def step(model, x, seed=9):
    """Of a training step: outputs, gradients of x and of all parameters, buffers afterwards; by name."""
    x = x.clone().requires_grad_()
    y = model(x * 1)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed)).to(y.dtype)
    model.zero_grad()
    (y * direction).sum().backward()
    found = {"y": y.detach(), "x": x.grad}
    found |= {f"grad {k}": p.grad for k, p in model.named_parameters()}
    return found | {f"buffer {k}": b.clone() for k, b in model.named_buffers()}


def same_step(model, plain, x, tolerance=2e-4):
    """One training step of both; plain is copied.  Gradients are compared with the size of the largest."""
    twin = copy.deepcopy(plain)
    ours, theirs = step(model, x), step(twin, x)
    assert ours.keys() == theirs.keys()
    size = max(
        (float(g.abs().max()) for k, g in theirs.items() if k.startswith("grad ") and g is not None), default=0.0
    )
    for key, expected in theirs.items():
        got = ours[key]
        if expected is None:
            assert got is None, key
            continue
        floor = 1e-2 * size if key.startswith("grad ") else 1e-3
        largest = max(float(expected.double().abs().max()), floor)
        assert float((got.double() - expected.double()).abs().max()) <= tolerance * largest, key


def check(model, x, kinds, mode="infer", tolerance=1e-5):
    """optimize() finds exactly these kinds of regions, and the result computes what the model does."""
    model = ready(model, mode)
    fast, report = optimize(model, x, mode, tune=False)
    assert swapped(report) == kinds, str(report)
    assert fast.runs_program()
    if mode == "train":
        same_step(fast, model, x)
        return fast, report
    expected = exact(model, x)
    with torch.no_grad():
        assert relative(fast(x), expected) <= tolerance  # as single calls of kernels
    y, _ = called(fast, x)
    assert relative(y, expected) <= tolerance  # as separate ops
    bigger = torch.cat([x, x.flip(0)], 0)[:3]
    with torch.no_grad():
        assert relative(fast(bigger), exact(model, bigger)) <= tolerance
    return fast, report


class Small(nn.Module):
    """Depthwise and dense units, squeeze-and-excitation, a sum, dropout, a classifier."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.depthwise = nn.Sequential(
            nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.Hardswish()
        )
        self.fc1, self.fc2 = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.project = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        y = self.depthwise(x)
        scale = self.fc2(torch.relu(self.fc1(y.mean((2, 3), keepdim=True)))).sigmoid()
        x = x + self.project(y * scale)
        return self.classifier(self.dropout(x.mean((2, 3))))


SMALL = {
    "infer": {"conv": 1, "inverted_residual": 1, "pixel_mean": 1, "linear": 1},
    "train": {"conv": 2, "conv_sum": 1, "squeeze_excite": 1, "linear": 1},
}
"""What is found in ``Small``."""


def small(mode="infer", **options):
    """(the model, optimised, x)"""
    torch.manual_seed(0)
    model, x = ready(Small(), mode), image()
    fast, report = optimize(model, x, mode, tune=False, **options)
    assert swapped(report) == SMALL[mode], str(report)
    return model, fast, x


def needs_torchvision():
    if torchvision() is None:
        pytest.skip(why_not())
