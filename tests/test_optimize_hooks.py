"""Hooks on what ``optimize`` returns and on the modules in it, there before or registered later, are called as ever."""

import pytest
import torch
from torch import nn

from cnnkernels.optimize import optimize

from .optimize_oracle import MODES, Small, exact, image, ready, relative, same_step, small


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["stem", "stem.0", "stem.1", "fc1", "project.1", "classifier"])
def test_hooks_of_later_are_called_once_a_call(name, mode):
    _, fast, x = small(mode)
    seen = []
    handle = fast.get_submodule(name).register_forward_hook(lambda m, args, y: seen.append(y.shape))
    fast(x)
    assert len(seen) == 1
    handle.remove()
    fast(x)
    assert len(seen) == 1
    assert fast.runs_program()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["stem", "stem.0", "depthwise.1", "fc1", "project"])
def test_hooks_of_before_are_called_once_a_call(name, mode):
    model, seen = ready(Small(), mode), []
    model.get_submodule(name).register_forward_hook(lambda m, args, y: seen.append(y.shape))
    fast, _ = optimize(model, image(), mode, tune=False)
    seen.clear()
    assert fast.runs_program()
    if mode == "train":
        same_step(fast, model, image())
        assert len(seen) == 2  # fast's and the model's
    else:
        with torch.no_grad():
            y = fast(image())
        assert len(seen) == 1
        assert relative(y, exact(model, image())) < 1e-5


def test_hooks_of_the_model_itself():
    model, fast, x = small()
    seen = []
    fast.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    fast.register_forward_hook(lambda m, args, y: seen.append(m))
    with torch.no_grad():
        assert relative(fast(x), exact(model, 2 * x)) < 1e-5
    assert seen == [fast]
    assert fast.runs_program()


@pytest.mark.parametrize("mode", MODES)
def test_global_hooks_see_every_module(mode):
    _, fast, x = small(mode)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, args, y: seen.append(type(m)))
    try:
        with torch.no_grad():
            fast(x)
    finally:
        handle.remove()
    assert seen.count(nn.BatchNorm2d) == 3 and seen.count(nn.Conv2d) == 5
