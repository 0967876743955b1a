"""What ``optimize`` refuses, and with which words."""

import copy

import pytest
import torch
from torch import nn

import cnnkernels
from cnnkernels.optimize import optimize, restore

from .optimize_oracle import Small, image, ready, swapped


@pytest.mark.parametrize(
    ("model", "example", "options", "error", "message"),
    [
        (lambda x: x, image(), {}, TypeError, "model must be a torch.nn.Module, got function"),
        (Small, image(), {}, TypeError, "model must be a torch.nn.Module, got type"),
        (nn.ReLU(), [], {}, TypeError, "example must be a tensor or a tuple with one, got list"),
        (nn.ReLU(), (), {}, TypeError, "example must be a tensor or a tuple with one, got tuple"),
        (nn.ReLU(), None, {}, TypeError, "example must be a tensor or a tuple with one, got NoneType"),
        (nn.ReLU(), {"x": image()}, {}, TypeError, "example must be a tensor or a tuple with one, got dict"),
        (nn.ReLU(), image(), {"mode": "eval"}, ValueError, "mode must be one of infer, train, got 'eval'"),
        (nn.ReLU(), image(), {"mode": None}, ValueError, "mode must be one of infer, train, got None"),
        (nn.ReLU(), image(), {"mode": ["infer"]}, ValueError, "mode must be one of infer, train, got"),
        (
            nn.ReLU(),
            image(),
            {"memory_format": torch.channels_last_3d},
            ValueError,
            "memory_format must be channels_last",
        ),
        (nn.ReLU(), image(), {"memory_format": "channels_last"}, ValueError, "memory_format must be channels_last"),
        (nn.ReLU(), image(), {"dtype": "half"}, TypeError, "dtype must be a torch.dtype or None, got 'half'"),
        (nn.ReLU(), image(), {"dtype": torch.int8}, TypeError, "dtype must be of floating point, got torch.int8"),
    ],
)
def test_bad_arguments(model, example, options, error, message):
    with pytest.raises(error) as caught:
        optimize(model, example, **options)
    assert str(caught.value).startswith(f"optimize: {message}")


def test_script_modules():
    with pytest.raises(TypeError, match="optimize: a ScriptModule has no Python forward"):
        optimize(torch.jit.trace(nn.ReLU(), image()), image())


def test_replaced_forward():
    model = ready(Small())
    model.forward = lambda x: x
    with pytest.raises(ValueError, match="forward of this model object was replaced"):
        optimize(model, image())


class Refuses(nn.Module):
    def forward(self, x):
        raise KeyError("my own words")


def test_the_models_own_errors_come_through():
    with pytest.raises(KeyError, match="my own words"):
        optimize(Refuses(), image())
    model = ready(Small())
    with pytest.raises(RuntimeError) as theirs:
        model(image(4))
    with pytest.raises(RuntimeError) as ours:
        optimize(model, image(4))
    assert str(ours.value) == str(theirs.value)
    with pytest.raises(TypeError, match="positional"):
        optimize(model, (image(), 2, 3))


def test_failing_leaves_the_model_as_it_was():
    model = ready(Small()).train()
    model.stem.eval()
    before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    with pytest.raises(RuntimeError):
        optimize(model, image(4))
    assert [m.training for m in model.modules()] == flags and type(model) is Small
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_restore_of_other_things():
    for other in (nn.ReLU(), Small()):
        with pytest.raises(ValueError, match="restore"):
            restore(other)


def test_example_of_one_tensor_in_a_list_or_tuple():
    for example in (image(), (image(),), [image()]):
        fast, report = optimize(ready(Small()), example, tune=False)
        assert fast.runs_program()
        assert report.example == "[2, 3, 16, 16] float32"


def test_options_of_the_report():
    _, report = optimize(ready(Small()), image(), tune=False)
    assert (report.before_ms, report.after_ms, report.speedup) == (None, None, None)
    assert report.error is not None
    _, report = optimize(ready(Small()), image(), verify=False, tune=False)
    assert report.error is None


def test_own_networks_are_taken_apart_no_further_than_they_are():
    """The modules of this package are called as they are."""
    torch.manual_seed(0)
    model = cnnkernels.models.create_model("shufflenet_v2_x0_5", num_classes=10).eval()
    x = image(size=64)
    fast, report = optimize(model, x, tune=False)
    assert "conv" not in swapped(report)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_integers_beside_the_image():
    class Takes(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Small()

        def forward(self, x, index, flag, scale=2.0):
            return self.net(x)[index] * scale if flag else self.net(x)

    model = ready(Takes())
    index = torch.tensor([1])
    fast, report = optimize(model, (image(), index, True), tune=False)
    assert report.example == "[2, 3, 16, 16] float32, [1] int64, True"
    with torch.no_grad():
        for args in ((image(), index, True), (image(), index, False), (image(), torch.tensor([0, 1]), True, 3.0)):
            torch.testing.assert_close(fast(*args), model(*args), rtol=1e-4, atol=1e-5)


def test_a_network_of_this_package_is_left_as_it_is():
    model, x = cnnkernels.models.create_model("shufflenet_v2_x0_5", num_classes=10).eval(), torch.randn(1, 3, 64, 64)
    fast, report = cnnkernels.optimize(model, x)
    assert not report.entries and "by itself" in str(report) and "nothing to gain" in str(report)
    assert not fast.runs_program() and torch.equal(fast(x), model(x))
    assert cnnkernels.optimize(fast, x)[0] is fast
    assert cnnkernels.restore(fast) is model
