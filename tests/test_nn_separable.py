"""``SeparableConv2d`` against its children one by one; weights that several BatchNorms share."""

import copy

import pytest
import torch
from torch import nn

import cnnkernels
from cnnkernels.nn import SeparableConv2d
from tests.nn_oracle import C, close, image, one_step, ran, randomise


class Plain(nn.Module):
    """The children of a ``SeparableConv2d``, with a BatchNorm and an activation from elsewhere."""

    def __init__(self, module, *more):
        super().__init__()
        self.module, self.more = copy.deepcopy(module), nn.ModuleList(copy.deepcopy(more))

    def forward(self, x):
        for m in (*self.module.children(), *self.more):
            x = m(x)
        return x


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("kernel_size", "bias", "norm"), [(3, True, True), (5, False, True), (3, True, False)])
def test_separable(training, channels_last, kernel_size, bias, norm):
    torch.manual_seed(0)
    module = randomise(SeparableConv2d(C, 8, kernel_size, bias, norm, eps=1e-3)).train(training)
    assert set(module.state_dict()) >= {"conv_dw.weight", "conv_pw.weight"}
    x, plain = image(channels_last=channels_last), Plain(module).train(training)
    for a, b in zip(one_step(module, x), one_step(plain, x), strict=True):
        close(a, b, 1e-4)
    with torch.no_grad(), cnnkernels.record_backends() as runs:
        close(module(x), plain(x), 1e-4)
    assert {"dwconv_bn_act"} | ({"bn_act_train"} if training and norm else set()) <= ran(runs)
    assert {r.backend for r in runs} == {"cpu"}


def test_norms_that_share_the_weights():
    """Each its own folded weights, also by turns and after a change of one of them."""
    torch.manual_seed(0)
    module, act = SeparableConv2d(C, 8).eval(), nn.SiLU()
    norms = randomise(nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))).eval()
    x = image(channels_last=True)
    with torch.no_grad():
        nn.init.uniform_(norms[1].weight, 2, 3)
        for _ in range(2):
            for level, bn in enumerate(norms):
                close(module(x, bn, act, level), Plain(module, bn, act).eval()(x), 1e-4)
            norms[0].weight.mul_(2)
            module.conv_pw.weight.mul_(0.5)
        norms.train()
        before = [bn.running_mean.clone() for bn in norms]
        expected = Plain(module, norms[1], act).train()
        close(module(x, norms[1], act, 1), expected(x), 1e-4)
        assert torch.equal(norms[0].running_mean, before[0])
        close(norms[1].running_mean, expected.more[0].running_mean, 1e-4)


@pytest.mark.parametrize("watched", ["conv_dw", "conv_pw", "bn"])
def test_hooks_on_children_run(watched):
    torch.manual_seed(0)
    module = randomise(SeparableConv2d(C, 8, norm=True)).eval()
    seen, x = [], image(channels_last=True)
    with torch.no_grad():
        expected = Plain(module).eval()(x)
        module.get_submodule(watched).register_forward_hook(lambda m, args, y: seen.append(y.clone()))
        close(module(x), expected, 1e-4)
    assert len(seen) == 1
    assert seen[0].shape[1] == (C if watched == "conv_dw" else 8)


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        SeparableConv2d(C, 8, 4)
