"""After ``optimize``: weights, modes, modules, hooks, sizes and ways of calling change; results follow, always."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from .optimize_oracle import MODES, Small, called, exact, image, relative, same_step, small


def follows(fast, x, tolerance=1e-5):
    """What fast computes is what its own modules do, as they are now."""
    with torch.no_grad():
        y, expected = fast(x), Small.forward(fast, x)
    assert relative(y, expected) < tolerance
    return y


def _in_place(fast):
    with torch.no_grad():
        fast.stem[0].weight.mul_(-2)
        fast.project[1].bias.add_(1)


def _statistics(fast):
    fast.stem[1].running_var.mul_(4)
    fast.depthwise[1].running_mean.add_(1)


def _optimizer_step(fast):
    optimizer = torch.optim.SGD(fast.parameters(), 0.5)
    for p in fast.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()


def _fused_optimizer_step(fast):
    optimizer = torch.optim.AdamW(fast.parameters(), 0.5, fused=True)
    for p in fast.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()


def _load(fast):
    fast.load_state_dict({k: v * 2 for k, v in fast.state_dict().items()})


def _load_into_a_child(fast):
    fast.stem.load_state_dict({k: v * 2 for k, v in fast.stem.state_dict().items()})


def _assign(fast):
    fast.load_state_dict({k: v * 2 for k, v in fast.state_dict().items()}, assign=True)


def _new_parameter(fast):
    fast.stem[0].weight = nn.Parameter(-fast.stem[0].weight.detach())


def _data_and_eval(fast):
    fast.stem[0].weight.data = -fast.stem[0].weight.data
    fast.eval()


def _eps(fast):
    fast.stem[1].eps = 0.5


def _strides(fast):
    fast.stem[0].stride = (1, 1)


def _activation(fast):
    fast.depthwise[2] = nn.ReLU6()


def _classifier(fast):
    torch.manual_seed(3)
    fast.classifier = nn.Linear(8, 4)


def _classifier_is_gone(fast):
    fast.classifier = nn.Identity()


def _child_of_a_child(fast):
    torch.manual_seed(3)
    fast.stem[0] = nn.Conv2d(3, 8, 5, 2, 2)


def _sequential(fast):
    fast.project.append(nn.ReLU())


def _hook(fast):
    fast.project[0].register_forward_hook(lambda m, args, y: y * 2)


def _pre_hook(fast):
    fast.fc1.register_forward_pre_hook(lambda m, args: (args[0] * 2,))


def _hook_on_a_container(fast):
    fast.stem.register_forward_hook(lambda m, args, y: y * 2)


def _replaced_forward(fast):
    forward = fast.fc2.forward
    fast.fc2.forward = lambda x: forward(x) * 2


def _parametrised(fast):
    class Double(nn.Module):
        def forward(self, w):
            return 2 * w

    parametrize.register_parametrization(fast.depthwise[0], "weight", Double())


def _pruned(fast):
    prune.random_unstructured(fast.stem[0], "weight", 0.5)


def _trains_a_norm(fast):
    fast.stem[1].train()


CHANGES = {
    f.__name__[1:]: f
    for f in (
        _in_place,
        _statistics,
        _optimizer_step,
        _fused_optimizer_step,
        _load,
        _load_into_a_child,
        _assign,
        _new_parameter,
        _data_and_eval,
        _eps,
        _strides,
        _activation,
        _classifier,
        _classifier_is_gone,
        _child_of_a_child,
        _sequential,
        _hook,
        _pre_hook,
        _hook_on_a_container,
        _replaced_forward,
        _parametrised,
        _pruned,
        _trains_a_norm,
    )
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("change", CHANGES)
def test_results_follow_changes(change, mode):
    _, fast, x = small(mode)
    fast.eval()
    with torch.no_grad():
        before = [fast(x), fast(x)][1]
    CHANGES[change](fast)
    after = follows(fast, x)
    after = follows(fast, x)
    assert after.shape != before.shape or relative(after, before) > 1e-3  # the change is one that shows


@pytest.mark.parametrize(
    "change", ["in_place", "classifier", "child_of_a_child", "hook", "eps", "activation", "parametrised"]
)
def test_training_steps_follow_changes(change):
    _, fast, x = small("train")
    CHANGES[change](fast)
    plain = copy.deepcopy(fast)
    plain.drop_programs()
    same_step(fast, plain, x)


@pytest.mark.parametrize("mode", MODES)
def test_modes_back_and_forth(mode):
    model, fast, x = small(mode)
    for training in (True, False, True, True, False):
        fast.train(training)
        assert fast.runs_program() == (mode == "train" or not training)
        plain = copy.deepcopy(model).train(training)
        if training:
            same_step(copy.deepcopy(fast), plain, x)
        with torch.no_grad():
            y, expected = fast(x), plain(x)
        assert relative(y, expected) < 1e-5
        for a, b in zip(fast.buffers(), plain.buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_training_an_infer_model_has_gradients_of_everything():
    model, fast, x = small("infer")
    fast.train()
    model.train()
    same_step(fast, copy.deepcopy(model), x)


def test_frozen_norms_in_training():
    model, fast, x = small("train")
    plain = copy.deepcopy(model)
    for m in (fast, plain):
        for child in m.modules():
            if isinstance(child, nn.BatchNorm2d):
                child.eval()
        m.stem[0].weight.requires_grad_(False)
    before = fast.stem[1].running_mean.clone()
    same_step(fast, plain, x)
    assert torch.equal(fast.stem[1].running_mean, before)


def test_gradients_of_inputs_flow_in_infer_mode():
    model, fast, x = small("infer")
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    fast(a).square().sum().backward()
    model(b).square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    y = fast(x)
    assert not y.requires_grad  # as documented: parameters are constants


@pytest.mark.parametrize("mode", MODES)
def test_other_sizes_layouts_and_ways_of_calling(mode):
    model, fast, x = small(mode)
    model.eval(), fast.eval()
    with torch.no_grad():
        for other in (
            image(n=1),
            image(n=5),
            image(size=24),
            image(size=17),
            x.to(memory_format=torch.channels_last),
            x[:, :, ::2],
        ):
            assert relative(fast(other), exact(model, other)) < 1e-5
        assert relative(fast(x=x), exact(model, x)) < 1e-5
        assert fast(x[:0]).shape == (0, 5)
        with torch.inference_mode():
            assert relative(fast(x.clone()), exact(model, x)) < 1e-5
    ran = called(fast, image(size=24))[1]
    assert ran["dwconv_bn_act"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_moved_to_another_dtype(mode):
    model, fast, x = small(mode)
    plain = copy.deepcopy(model)
    model.eval(), fast.eval(), plain.eval()
    with torch.no_grad():
        fast(x)
        fast.double()
        assert relative(fast(x.double()), exact(plain, x)) < 1e-12
        fast.half()
        assert relative(fast(x.half()), exact(plain, x)) < 2e-2
        fast.float()
        assert relative(fast(x), exact(fast, x)) < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_errors_are_the_models_own(mode):
    model, fast, x = small(mode)
    for wrong in (image(4), x[0, 0], x.double(), x.long()):
        with pytest.raises((RuntimeError, ValueError, TypeError)) as theirs:
            model(wrong)
        with pytest.raises(theirs.type):
            fast(wrong)
    with pytest.raises(TypeError, match="positional"):
        fast()
    with pytest.raises(TypeError, match="positional"):
        fast(x, x)
