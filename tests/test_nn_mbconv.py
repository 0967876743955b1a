"""``MBConv`` and ``StochasticDepth`` against the same layers written out."""

import pytest
import torch
from torch import nn

import cnnkernels
from cnnkernels.nn import MBConv, SqueezeExcite, StochasticDepth

from .nn_oracle import C, as_sequential, close, image, one_step, ran, randomise


class Expected(nn.Module):
    """The children of an MBConv, run one by one; SqueezeExcite has tests of its own."""

    def __init__(self, module, residual):
        super().__init__()
        self.block, self.residual = as_sequential(module.block), residual

    def forward(self, x):
        return x + self.block(x) if self.residual else self.block(x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("hidden", "c_out", "stride", "squeeze", "residual"),
    [(24, C, 1, 8, True), (24, C, 2, 0, False), (C, 8, 1, 4, False), (C, C, 1, 0, True)],
)
def test_mbconv(training, hidden, c_out, stride, squeeze, residual):
    torch.manual_seed(0)
    module = randomise(
        MBConv(C, hidden, c_out, 5, stride, act="hard_swish", squeeze_channels=squeeze, gate="hard_sigmoid", eps=1e-3)
    )
    module.train(training)
    expected = Expected(module, residual).train(training)
    assert list(module.state_dict()) == list(expected.state_dict())
    assert {m.eps for m in module.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    for a, b in zip(one_step(module, image()), one_step(expected, image()), strict=True):
        close(a, b, 5e-4)
    with torch.no_grad(), cnnkernels.record_backends() as runs:
        y = module(image())
    close(y, expected(image()), 5e-4)
    assert {"dwconv_bn_act_train" if training else "dwconv_bn_act"} | ({"squeeze_excite"} if squeeze else set()) <= ran(
        runs
    )


@pytest.mark.parametrize("watched", ["", "block", "block.3"])
def test_mbconv_hooks_see_the_branch_alone(watched):
    torch.manual_seed(0)
    module = randomise(MBConv(C, 24, C, squeeze_channels=8)).eval()
    seen = []
    with torch.no_grad():
        branch = as_sequential(module.block)(image())
        module.get_submodule(watched).register_forward_hook(lambda m, args, out: seen.append(out.clone()))
        close(module(image()), image() + branch, 2e-4)
    close(seen[0], branch if watched else image() + branch, 2e-4)


def test_mbconv_dilation_and_squeeze_activations():
    module = MBConv(C, 24, C, 3, dilation=2, act="silu", squeeze_channels=6, squeeze_act="silu")
    assert module(image()).shape == image().shape
    depthwise, squeeze = module.block[1][0], module.block[2]
    assert (depthwise.dilation, depthwise.padding) == ((2, 2), (2, 2))
    assert isinstance(squeeze, SqueezeExcite)
    assert type(squeeze.activation) is nn.SiLU
    assert type(squeeze.scale_activation) is nn.Sigmoid


def test_mbconv_makes_its_convolutions_with():
    class Other(nn.Conv2d):
        pass

    module = MBConv(C, 24, C, squeeze_channels=6, conv=Other)
    assert [type(m) for m in module.modules() if isinstance(m, nn.Conv2d)].count(Other) == 3


def test_stochastic_depth():
    torch.manual_seed(0)
    x = torch.rand(4000, 2, 1, 1) + 1
    module = StochasticDepth(0.25)
    y = module(x)
    kept = y.flatten(1).bool()
    assert torch.equal(kept[:, 0], kept[:, 1])  # whole images
    assert abs(kept[:, 0].float().mean().item() - 0.75) < 0.03  # 4 standard deviations
    close(y[kept[:, 0]], x[kept[:, 0]] / 0.75)
    assert module.eval()(x) is x
    assert StochasticDepth(0)(x) is x
    assert "p=0.25" in repr(module)


def test_mbconv_drop_path():
    """In training an image is its input, or its input and the branch over 1 - p; in evaluation nothing drops out."""
    torch.manual_seed(0)
    module = randomise(MBConv(C, 24, C, drop_path=0.5))
    x = image(8)
    for m in module.block.modules():
        m.training = False  # running statistics, so that images do not depend on each other
    with torch.no_grad():
        branch, y = module.block(x), module(x)
        alone = torch.tensor([torch.equal(a, b) for a, b in zip(x, y, strict=True)])
        assert 0 < alone.sum() < 8
        close(y[~alone], (x + 2 * branch)[~alone], 2e-4)
        close(module.eval()(x), x + branch, 2e-4)


def test_mbconv_refuses():
    with pytest.raises(ValueError, match="MBConv: stride must be 1 or 2, got 3"):
        MBConv(8, 8, 8, 3, 3)
    with pytest.raises(ValueError, match="MBConv: squeeze_channels must be 0 or more, got -1"):
        MBConv(8, 8, 8, squeeze_channels=-1)
    with pytest.raises(ValueError, match="StochasticDepth: p must be at least 0 and below 1, got 1"):
        MBConv(8, 8, 8, drop_path=1)
