"""``FusedSequential`` against ``nn.Sequential`` with the same children."""

import pytest
import torch
from torch import nn

from cnnkernels.nn import FusedSequential, conv_bn_act

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
