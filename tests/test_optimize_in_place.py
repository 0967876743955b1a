"""Operations in place in a network that ``optimize`` rewrites: whoever else reads the tensor, and the caller, see the same."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cnnkernels.optimize import optimize

from .optimize_oracle import MODES, exact, image, ready, relative, same_step, swapped
from .test_optimize_regions import Net, conv_bn


def _reads_what_an_activation_wrote(m, x):
    y = m.bn(m.conv(x))
    z = m.act(y)  # in place: y is z
    return y * 2 + z


def _adds_to_a_tensor_that_is_read_again(m, x):
    y = m.pool(x)
    z = y * 3
    y += m.bn(m.conv(x))
    return y + z


def _adds_to_an_alias(m, x):
    y = m.pool(x)
    other = y.view(y.shape)
    y += m.bn(m.conv(x))
    return y * other


def _activates_the_input(m, x):
    y = m.pool(x)
    z = F.relu(y, inplace=True)
    return m.bn(m.conv(y)) + z


def _iadd_of_the_first_of_two_readers(m, x):
    y = m.pool(x)
    before = m.bn(m.conv(y))
    y += before
    return m.bn(m.conv(y)) * y


IN_PLACE = {
    f.__name__[1:]: f
    for f in (
        _reads_what_an_activation_wrote,
        _adds_to_a_tensor_that_is_read_again,
        _adds_to_an_alias,
        _activates_the_input,
        _iadd_of_the_first_of_two_readers,
    )
}


def _ready(body, mode):
    modules = conv_bn(6, 6, padding=1) | {"act": nn.ReLU(inplace=True), "pool": nn.AvgPool2d(1)}
    return ready(Net(IN_PLACE[body], **modules), mode), image(6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("body", IN_PLACE)
def test_writing_in_place_where_somebody_else_reads(body, mode):
    model, x = _ready(body, mode)
    fast, report = optimize(model, x, mode, tune=False)
    if body == "adds_to_an_alias":  # fx makes a sum of its own of ``+=``
        assert "its graph computes something else" in report.entries[0].why
    else:
        assert fast.runs_program() and swapped(report)
    before = x.clone()
    model.eval(), fast.eval()
    with torch.no_grad():
        assert relative(fast(x), exact(model, x)) < 1e-5, str(report)
    assert torch.equal(x, before)


# Autograd refuses the others: the modules need what is overwritten.
@pytest.mark.parametrize("body", ["adds_to_a_tensor_that_is_read_again", "activates_the_input"])
def test_training_steps(body):
    model, x = _ready(body, "train")
    fast, _ = optimize(model, x, "train", tune=False)
    same_step(fast, model, x)


def test_writing_to_the_argument_reaches_the_caller():
    model, x = ready(Net(lambda m, x: m.bn(m.conv(x.add_(1))), **conv_bn())), image()
    fast, _ = optimize(model, x, tune=False)
    ours, theirs = image(), image()
    with torch.no_grad():
        assert relative(fast(ours), model(theirs)) < 1e-5
    assert torch.equal(ours, theirs)
