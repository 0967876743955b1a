"""The blocks of the mobile networks against the same layers written out."""

import pytest
import torch
from torch import nn

from cnnkernels.nn import ChannelShuffle, InvertedResidual, ShuffleUnit

from .nn_oracle import C, as_sequential, close, image, one_step, randomise


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("c_out", "stride", "ratio"), [(C, 1, 6), (C, 2, 3), (8, 1, 1)])
def test_inverted_residual(training, c_out, stride, ratio):
    torch.manual_seed(0)
    module = randomise(InvertedResidual(C, c_out, stride, ratio)).train(training)
    plain = as_sequential(module.conv)

    class Expected(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = plain

        def forward(self, x):
            return x + self.conv(x) if stride == 1 and c_out == C else self.conv(x)

    expected = Expected().train(training)
    for a, b in zip(one_step(module, image()), one_step(expected, image()), strict=True):
        close(a, b, 5e-4)
    with torch.no_grad():
        y = module(image())
        close(y, expected(image()), 2e-4)
        seen = []
        module.conv.register_forward_hook(lambda m, args, out: seen.append(out.clone()))
        module(image())
        close(seen[0], plain(image()), 2e-4)  # what a hook sees is without the residual


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(("c_in", "stride"), [(C, 1), (8, 2)])
def test_shuffle_unit(c_in, stride, split):
    torch.manual_seed(0)
    module = randomise(ShuffleUnit(c_in, C, stride)).eval()
    x = image(c=c_in)
    b1, b2 = as_sequential(module.branch1), as_sequential(module.branch2)
    left, right = x.chunk(2, 1) if stride == 1 else (x, x)
    joined = torch.cat((b1(left), b2(right)), 1)
    expected = joined.view(2, 2, C // 2, *joined.shape[2:]).transpose(1, 2).reshape(joined.shape)
    with torch.no_grad():
        for given in (x, tuple(x.chunk(2, 1))):
            y = module(given, split=split)
            assert isinstance(y, tuple) == split
            close(torch.cat(y, 1) if split else y, expected, 1e-4)


def test_shuffle_unit_refuses():
    with pytest.raises(ValueError, match="stride must be 1 or 2, got 3"):
        ShuffleUnit(8, 8, 3)
    with pytest.raises(ValueError, match="equal to in_channels at stride 1"):
        ShuffleUnit(8, 12, 1)
    with pytest.raises(ValueError, match="kernel_size must be odd where no padding is given, got 4"):
        ShuffleUnit(8, 8, kernel_size=4)


def test_inverted_residual_refuses():
    with pytest.raises(ValueError, match="stride must be 1 or 2, got 3"):
        InvertedResidual(8, 8, 3, 6)
    with pytest.raises(ValueError, match=r"in_channels \* expand_ratio must be at least 1, got 8 \* 0"):
        InvertedResidual(8, 8, 1, 0)


def test_channel_shuffle():
    x = image()
    expected = x.view(2, 3, 4, 9, 9).transpose(1, 2).reshape(x.shape)
    assert torch.equal(ChannelShuffle(3)(x), expected)
    assert "groups=3" in repr(ChannelShuffle(3))
    with pytest.raises(ValueError, match="groups must be at least 1, got 0"):
        ChannelShuffle(0)
    with pytest.raises(TypeError, match="groups must be an int, got '2'"):
        ChannelShuffle("2")
