"""The trunk of a network in evaluation on a CPU: one native call, equal to its modules, while nothing has changed."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from cnnkernels.models import create_model
from cnnkernels.nn import MaxPool2d, _trunk

from .nn_oracle import close, randomise


@pytest.fixture
def counted(count_direct):
    return count_direct("run")


@pytest.fixture
def explored(monkeypatch):
    """How often a route was looked for."""
    calls, explore = [], _trunk._explore

    def counting(*args):
        calls.append(args)
        return explore(*args)

    monkeypatch.setattr(_trunk, "_explore", counting)
    return calls


NETWORKS = {  # native calls, blocks in the first of them
    "mobilenet_v1_025": 1,
    "mobilenet_v2": 1,
    "mobilenet_v3_large": 1,
    "mobilenet_v3_small": 1,
    "shufflenet_v2_x0_5": 1,
    "efficientnet_b0": 1,
    "tf_efficientnet_b0": 1,
}


def made(name, **kw):
    torch.manual_seed(0)
    return randomise(create_model(name, **kw)).eval()


def picture(size=64, n=1, c=3, seed=1):
    return torch.randn(n, c, size, size, generator=torch.Generator().manual_seed(seed))


def reference(model, x):
    model = copy.deepcopy(model)
    model.backend = "reference"
    return model(x)


def same(model, x):
    """The model's answer, which is that of its plain modules."""
    y = model(x)
    want = reference(model, x)
    for a, b in zip(y, want, strict=True) if isinstance(y, list) else [(y, want)]:
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())
    return y


def test_padding_follows_the_size(counted, explored):
    """A route of convolutions with TensorFlow's padding is for one size; blocks whose padding stays keep their plans."""
    model = made("tf_efficientnet_b0")
    with torch.no_grad():
        for size in (64, 79, 79, 64, 64, 128, 33, 33):
            same(model, picture(size, seed=size))
    assert counted.calls == 3 and len(explored) == 5


@pytest.mark.parametrize("name", [n for n in NETWORKS if n[:3] != "tf_"])
def test_one_call(name, counted, explored, threads):
    model = made(name)
    with torch.no_grad():
        first = same(model, picture())
        assert counted.calls == 0
        assert torch.equal(model(picture()), first)
        assert counted.calls == NETWORKS[name]
        for n, size in ((3, 64), (1, 79), (2, 33)):
            same(model, picture(size, n, seed=n))
    assert counted.calls == 4 * NETWORKS[name] and len(explored) == 1


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5"])
def test_feature_maps(name, counted, explored):
    model = made(name, features_only=True)
    with torch.no_grad():
        same(model, picture())
        maps = same(model, picture(seed=2))
    assert len(maps) == len(model.strides) and counted.calls == len(maps)
    assert len(explored) == len(maps)


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x0_5"])
def test_what_was_returned_stays(name, counted):
    """Maps between two steps lie in memory that the next call writes again; what a call returns does not."""
    model = made(name)
    with torch.no_grad():
        model.forward_features(picture())
        first = model.forward_features(picture())
        kept = first.clone()
        for seed in (2, 3):
            model.forward_features(picture(seed=seed))
        assert torch.equal(first, kept)
    assert counted.calls == 3


def test_one_channel(counted):
    model = made("mobilenet_v2", in_chans=1)
    with torch.no_grad():
        model(picture(c=1))
        same(model, picture(c=1))
    assert counted.calls == 1


def scale_weight(m):
    m.features[5].conv[0][0].weight.mul_(1.5)


def scale_statistics(m):
    m.features[18][1].running_var.mul_(2)


def scale_stem(m):
    m.features[0][0].weight.mul_(1.5)


def replace_parameter(m):
    m.features[3].conv[2].weight = nn.Parameter(m.features[3].conv[2].weight * 2)


def replace_block(m):
    m.features[5] = copy.deepcopy(m.features[6]).eval()
    nn.init.ones_(m.features[5].conv[2].weight)


def leave_out_a_block(m):
    del m.features[5]


def other_activation(m):
    m.features[18][2] = nn.ReLU()


def no_sum(m):
    m.features[5].use_res_connect = False


def load_a_block(m):
    block = m.features[5]
    block.load_state_dict({k: v * 1.25 if v.is_floating_point() else v for k, v in block.state_dict().items()})


def write_to_data(m):
    m.features[5].conv[0][0].weight.data.mul_(1.5)
    m.features[5].eval()


def scale_layer(m):
    m.features[4][0].block[2].fc1.weight.mul_(3)


def other_gate(m):
    m.features[4][0].block[2].scale_activation = nn.Hardsigmoid()


def shorten_a_stage(m):
    del m.features[4][2]


CHANGES = {
    "mobilenet_v2": (
        *(scale_weight, scale_statistics, scale_stem, replace_parameter, replace_block),
        *(leave_out_a_block, other_activation, no_sum, load_a_block, write_to_data),
    ),
    "efficientnet_b0": (scale_layer, other_gate, shorten_a_stage),
}


@pytest.mark.parametrize(("name", "change"), [(name, change) for name in CHANGES for change in CHANGES[name]])
def test_changes_are_seen(name, change, counted, explored):
    model, x = made(name), picture()
    with torch.no_grad():
        model(x)
        old = model(x)
        change(model)
        new = same(model, x)
        assert not torch.allclose(old, new)
        assert torch.equal(model(x), new)
    assert counted.calls == 2 and len(explored) == 2


@pytest.mark.parametrize(
    ("name", "path", "calls"),
    [
        ("mobilenet_v2", "features.5", 2),
        ("mobilenet_v2", "features.5.conv", 2),
        ("mobilenet_v2", "features.5.conv.1.0", 2),
        ("mobilenet_v2", "features.0.2", 1),
        ("mobilenet_v2", "features.18", 1),
        ("efficientnet_b0", "features.4", 2),
        ("efficientnet_b0", "features.4.1.block.2.fc1", 2),
        ("efficientnet_b0", "features.4.1.block.2.avgpool", 2),
        ("shufflenet_v2_x0_5", "maxpool", 2),
        ("shufflenet_v2_x0_5", "stage3.2", 2),
        ("shufflenet_v2_x0_5", "stage3.2.branch2.3", 2),
    ],
)
def test_hooks_are_called(name, path, calls, counted):
    """Before and behind the module with the hook there is one call each."""
    model, x = made(name), picture()
    seen = []
    with torch.no_grad():
        want = same(model, x)
        model(x)
        handle = model.get_submodule(path).register_forward_hook(lambda module, args, y: seen.append(y))
        close(model(x), want, 1e-4)
        counted.calls = 0
        close(model(x), want, 1e-4)
        assert len(seen) == 2 and counted.calls == calls
        handle.remove()
        close(model(x), want, 1e-4)
    assert len(seen) == 2


def test_a_hook_that_doubles():
    model, x = made("mobilenet_v2"), picture()
    with torch.no_grad():
        old = model(x)
        model(x)
        model.features[7].register_forward_hook(lambda module, args, y: y * 2)
        assert not torch.allclose(model(x), old)
        same(model, x)


def test_a_hook_on_all_modules(counted):
    model, x = made("mobilenet_v2"), picture()
    seen = []
    with torch.no_grad():
        model(x)
        with torch.nn.modules.module.register_module_forward_hook(lambda module, args, y: seen.append(module)):
            model(x)
    assert counted.calls == 0 and model.features[5].conv[1][0] in seen


class Doubled(type(create_model("mobilenet_v2", num_classes=0).features[5])):  # a block that says nothing of plans
    def forward(self, x):
        return super().forward(x) * 2


def test_another_class_of_block_is_called(counted):
    model, x = made("mobilenet_v2"), picture()
    with torch.no_grad():
        model(x)
        model.features[5].__class__ = Doubled
        same(model, x)
        same(model, x)
    assert counted.calls == 2


def test_a_replaced_forward_is_called(counted):
    model, x = made("mobilenet_v2"), picture()
    with torch.no_grad():
        old = model(x)
        forward = model.features[5].forward
        model.features[5].forward = lambda x: forward(x) * 2
        assert not torch.allclose(model(x), old)
        model(x)
    assert counted.calls == 2


def test_training_and_gradients(counted, explored):
    model, x = made("mobilenet_v2"), picture(n=2)
    with torch.no_grad():
        old = model(x)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert len(explored) == 1 and counted.calls == 0
    with torch.no_grad():
        model(x)  # statistics move, whoever looks
        assert all(not torch.equal(v, before[k]) for k, v in model.state_dict().items() if "running" in k)
        model.load_state_dict(before)
        close(model.eval()(x), old, 1e-4)
    model(x).sum().backward()  # evaluation, with gradients
    assert counted.calls == 0
    model.requires_grad_(False)
    model(x)
    assert counted.calls == 1
    picture_with = x.clone().requires_grad_()
    model(picture_with).sum().backward()
    assert picture_with.grad is not None and counted.calls == 1


def test_one_layer_in_training_is_called(counted):
    model, x = made("mobilenet_v2"), picture(n=2)
    with torch.no_grad():
        model(x)
        model.features[5].conv[1][1].train()
        model(x)
        assert model.features[5].conv[1][1].num_batches_tracked == 1
        counted.calls = 0
        model(x)
    assert counted.calls == 2 and model.features[5].conv[1][1].num_batches_tracked == 2


def test_wrong_images_are_the_modules_error(counted):
    model = made("mobilenet_v2")
    with torch.no_grad():
        model(picture())
        with pytest.raises(RuntimeError, match="expected input"):
            model(picture(c=4))
    assert counted.calls == 0


def test_too_small_images_are_the_modules_error(counted):
    model = made("shufflenet_v2_x0_5")
    model.maxpool = MaxPool2d(9)
    with torch.no_grad():
        model(picture())
        with pytest.raises(RuntimeError, match="Output size is too small"):
            model(picture(8))
    assert counted.calls == 0


def test_copies_start_without_a_route(counted, explored):
    model, x = made("mobilenet_v2"), picture()
    with torch.no_grad():
        want = model(x)
        again = copy.deepcopy(model)
        assert "route" in model._folds and not again._folds
        assert torch.equal(again(x), want)
        scale_weight(again)
        assert torch.equal(model(x), want) and not torch.equal(again(x), want)
    assert len(explored) == 3


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_a_model_that_is_gone_is_gone(name):
    model = made(name)
    with torch.no_grad():
        model(picture())
        model(picture())
    parts = [weakref.ref(m) for m in model.modules()] + [weakref.ref(p) for p in model.parameters()]
    del model
    gc.collect()
    assert all(part() is None for part in parts)
