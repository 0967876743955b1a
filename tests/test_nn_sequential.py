"""``FusedSequential`` against ``nn.Sequential`` with the same children."""

import pytest
import torch
from torch import nn

import cnnkernels
from cnnkernels.nn import FusedSequential, conv_bn_act
from cnnkernels.nn.sequential import plus

from .nn_oracle import C, as_sequential, close, image, one_step, randomise


def stack():
    return randomise(
        FusedSequential(
            nn.BatchNorm2d(C),
            nn.ReLU(),
            nn.Conv2d(C, 8, 1),
            conv_bn_act(8, 8, 3, groups=8),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.GELU(),
            nn.Conv2d(8, C, 1, bias=False),
            nn.BatchNorm2d(C),
        )
    )


@pytest.mark.parametrize("training", [True, False])
def test_fused_sequential(training):
    module = stack().train(training)
    expected = as_sequential(module)
    assert list(module.state_dict()) == list(expected.state_dict())
    for a, b in zip(one_step(module, image()), one_step(expected, image()), strict=True):
        close(a, b, 2e-4)
    with torch.no_grad():
        close(module(image(), residual=image()), module(image()) + image(), 1e-4)
        close(module[:2](image()), expected[:2](image()), 1e-4)


def test_fused_sequential_residual_after_the_last_run():
    module = FusedSequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), nn.GELU()).eval()
    with torch.no_grad():
        close(module(image(), residual=image()), as_sequential(module)(image()) + image())
        close(FusedSequential()(image(), residual=image()), 2 * image(), 0)


def test_fused_sequential_fuse():
    module = stack().eval()
    deployed = module.fuse()
    norms = [m for m in deployed.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 1  # the first has no convolution before it
    with torch.no_grad():
        close(deployed(image()), module(image()), 1e-4)
    assert deployed.unfuse() is module


@pytest.mark.parametrize("times", [2, 4])
@pytest.mark.parametrize("grad", [True, False])
def test_an_enlarged_result_and_the_residual_are_added_in_one_pass(times, grad):
    """A path of HRNet: convolution, BatchNorm, ``nn.Upsample``; the same from plain children."""
    module = randomise(FusedSequential(nn.Conv2d(C, 8, 1), nn.BatchNorm2d(8), nn.Upsample(scale_factor=times))).eval()
    x = image().requires_grad_(grad)
    small = x.shape[2:]
    residual = torch.randn(x.shape[0], 8, *(times * s for s in small), requires_grad=grad)
    with cnnkernels.record_backends() as runs:
        y = module(x, residual=residual)
    assert ("upsample_add", "cpu") in {(r.op, r.backend) for r in runs}
    plain = as_sequential(module)
    want = plain(x) + residual
    close(y, want)
    if grad:
        gradients = (
            torch.autograd.grad(t.square().sum(), (x, residual, *m.parameters()))
            for t, m in ((y, module), (want, plain))
        )
        for a, b in zip(*gradients, strict=True):
            close(a, b, 1e-4)


@pytest.mark.parametrize(
    "upsample",
    [
        nn.Upsample(scale_factor=1.5),
        nn.Upsample(scale_factor=(2.0, 2.0)),
        nn.Upsample(size=(12, 14)),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=2, mode="nearest-exact"),
        type("Subclass", (nn.Upsample,), {})(scale_factor=2),
    ],
    ids=["1.5", "pair", "size", "bilinear", "exact", "subclass"],
)
def test_other_ways_to_enlarge_are_called(upsample):
    x = torch.randn(1, 3, 6, 7)
    residual = torch.randn_like(upsample(x))
    with cnnkernels.record_backends() as runs:
        close(plus(upsample, x, residual), upsample(x) + residual, 0)
    assert not runs


def test_an_upsampling_with_a_hook_is_called():
    upsample, seen = nn.Upsample(scale_factor=2), []
    upsample.register_forward_hook(lambda _, args, output: seen.append(output))
    x, residual = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 8, 8)
    y = plus(upsample, x, residual)
    close(seen[0], torch.nn.functional.interpolate(x, scale_factor=2), 0)
    close(y, seen[0] + residual, 0)
    for other in (residual[:, :1], residual.double()):  # broadcast, another dtype: PyTorch's to decide
        close(
            plus(nn.Upsample(scale_factor=2), x, other), torch.nn.functional.interpolate(x, scale_factor=2) + other, 0
        )
