"""What ``optimize`` returns is the network: keys, parameters, copies, files, restore; and the network given is untouched."""

import copy
import io
import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn

from cnnkernels.optimize import optimize, restore

from .optimize_oracle import MODES, Small, called, exact, image, ready, relative, same_step, small, swapped


class Counting(nn.Module):
    """Writes to a buffer in evaluation, counts its calls, and holds things that somebody put there."""

    def __init__(self):
        super().__init__()
        self.inner = Small()
        self.register_buffer("seen", torch.zeros(1))
        self.calls, self.note = 0, {"mine": [1, 2]}

    def forward(self, x):
        self.calls += 1
        self.seen.add_(1)
        return self.inner(x)


def everything(model):
    """All that an owner of the network can see of it."""
    flags = {name: (type(m), m.training, dict(m._forward_hooks)) for name, m in model.named_modules()}
    return flags, {k: (id(v), v.clone()) for k, v in model.state_dict(keep_vars=True).items()}


def same(before, after):
    assert before[0] == after[0]
    assert before[1].keys() == after[1].keys()
    for key, (address, value) in before[1].items():
        assert after[1][key][0] == address, key
        assert torch.equal(after[1][key][1], value), key


@pytest.mark.parametrize("tune", [False, True])
@pytest.mark.parametrize("was", [True, False], ids=["was training", "was evaluating"])
@pytest.mark.parametrize("mode", MODES)
def test_original_is_untouched(mode, was, tune):
    model, x = ready(Counting()).train(was), image()
    model.inner.dropout.train(not was)  # flags of its own
    seen = []
    model.inner.stem.register_forward_hook(lambda *args: seen.append(1))
    x.requires_grad_()
    before, kept = everything(model), x.detach().clone()
    rng = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    optimize(model, x, mode, tune=tune)
    same(before, everything(model))
    assert model.calls == 0
    assert model.note == {"mine": [1, 2]}
    assert torch.equal(x.detach(), kept)
    assert x.grad is None and all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), rng[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == rng[1:]


def test_norm_that_trains_in_evaluation():
    """A BatchNorm left in training in an evaluated model: its statistics change by calls, not by optimize."""
    model, x = ready(Small()), image()
    model.stem[1].train()
    twin, before = copy.deepcopy(model), everything(model)
    fast, _ = optimize(model, x, tune=False)
    same(before, everything(model))
    assert fast.stem[1].training
    with torch.no_grad():
        for _ in range(3):
            assert relative(fast(x), twin(x)) < 1e-5
    assert int(model.stem[1].num_batches_tracked) == 3
    torch.testing.assert_close(model.stem[1].running_mean, twin.stem[1].running_mean)


@pytest.mark.parametrize("mode", MODES)
def test_class_keys_and_parameters_are_the_networks(mode):
    model, fast, _ = small(mode)
    assert isinstance(fast, Small) and isinstance(fast.stem, nn.Sequential)
    assert type(fast).__name__ == "OptimizedSmall"
    assert list(fast.state_dict()) == list(model.state_dict())
    assert [n for n, _ in fast.named_modules()] == [n for n, _ in model.named_modules()]
    for (name, a), (_, b) in zip(fast.named_parameters(), model.named_parameters(), strict=True):
        assert a is b, name
    for (name, a), (_, b) in zip(fast.named_buffers(), model.named_buffers(), strict=True):
        assert a is b, name
    assert not any(a is b for a, b in zip(fast.modules(), model.modules(), strict=True))
    assert "Conv2d" in repr(fast)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_state_dict_round_trip(mode, assign):
    _, fast, x = small(mode)
    fast.eval()
    torch.manual_seed(7)
    other = ready(Small())
    for p in other.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    with torch.no_grad():
        stale = fast(x)
        assert fast.load_state_dict(other.state_dict(), assign=assign) == ([], [])
        assert relative(fast(x), exact(other, x)) < 1e-5
        assert relative(fast(x), stale) > 1e-2
        back = Small().eval()
        assert back.load_state_dict(fast.state_dict()) == ([], [])
        assert torch.equal(back(x), other(x))
    assert fast.runs_program()


@pytest.mark.parametrize("mode", MODES)
def test_restore_is_the_very_object_with_the_weights_of_now(mode):
    model, fast, x = small(mode)
    flags = [m.training for m in model.modules()]
    torch.manual_seed(7)
    fast.load_state_dict(
        {k: v + 0.1 * torch.randn_like(v) if v.is_floating_point() else v for k, v in fast.state_dict().items()}
    )
    fast.load_state_dict(copy.deepcopy(fast.state_dict()), assign=True)  # other objects than the network's
    assert restore(fast) is model
    assert [m.training for m in model.modules()] == flags
    for (name, a), (_, b) in zip(fast.named_parameters(), model.named_parameters(), strict=True):
        assert a is b, name
    with torch.no_grad():
        assert relative(fast.eval()(x), exact(model.eval(), x)) < 1e-5
    with pytest.raises(ValueError, match=r"restore: Small is not what cnnkernels\.optimize returned"):
        restore(model)


@pytest.mark.parametrize("mode", MODES)
def test_idempotent(mode):
    _, fast, x = small(mode)
    again, report = optimize(fast, x, mode)
    assert again is fast
    assert "optimised before" in report.notes[0]
    with pytest.raises(ValueError, match="optimised already, for another mode"):
        optimize(small("infer")[1], x, "train")


def test_train_model_is_a_model_for_evaluation_too():
    _, fast, x = small("train")
    assert optimize(fast, x, "infer")[0] is fast


@pytest.mark.parametrize("mode", MODES)
def test_deepcopy_has_weights_of_its_own_and_runs_its_program(mode):
    model, fast, x = small(mode)
    twin = copy.deepcopy(fast)
    assert type(twin).__mro__[1:] == type(fast).__mro__[1:]
    assert twin.runs_program()
    fast.eval(), twin.eval()
    with torch.no_grad():
        before = fast(x).clone()
        twin.classifier.weight.mul_(2)
        twin.stem[0].weight.mul_(-1)
        assert torch.equal(fast(x), before)
        assert relative(twin(x), exact(restore(twin), x)) < 1e-5
        assert relative(twin(x), before) > 1e-2
    plain = restore(twin)
    assert type(plain) is Small and plain is not model
    assert plain.stem[0].weight is twin.stem[0].weight


@pytest.mark.parametrize("mode", MODES)
def test_pickle(mode):
    _, fast, x = small(mode)
    fast.eval()
    with torch.no_grad():
        expected = fast(x)
        read = pickle.loads(pickle.dumps(fast))
        assert read.runs_program()
        assert torch.equal(read(x), expected)
        file = io.BytesIO()
        torch.save(fast, file)
        file.seek(0)
        read = torch.load(file, weights_only=False)
        assert read.runs_program()
        assert torch.equal(read(x), expected)
    assert type(restore(read)) is Small


@pytest.mark.parametrize("mode", MODES)
def test_names_of_ops_that_run(mode):
    """Not only equal: the kernels run, none falls back."""
    _, fast, x = small(mode)
    ran = called(fast, x)[1]
    if mode == "infer":
        assert ran == {"dwconv_bn_act": 1, "squeeze_excite": 1, "pointwise_conv_bn_act": 1}
    else:
        assert ran == {"bn_act_train": 2, "dwconv_bn_act_train": 1, "squeeze_excite": 1}


def test_other_dtype_is_a_copy():
    model, x = ready(Small()), image()
    fast, report = optimize(model, x.double(), dtype=torch.float64, tune=False)
    assert swapped(report)["conv"]
    assert fast.stem[0].weight.dtype is torch.float64
    assert model.stem[0].weight.dtype is torch.float32
    with torch.no_grad():
        assert relative(fast(x.double()), exact(model, x)) < 1e-12
    plain = restore(fast)
    assert plain is not model and plain.stem[0].weight is fast.stem[0].weight
    assert model.stem[0].weight.dtype is torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(dtype):
    model, x = ready(Small()), image(dtype=torch.float32).to(dtype)
    fast, report = optimize(model, x, dtype=dtype, tune=False)
    assert swapped(report)
    with torch.no_grad():
        assert relative(fast(x), exact(model, x)) < (1e-2 if dtype is torch.float16 else 8e-2)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mode", MODES)
def test_memory_format(memory_format, mode):
    torch.manual_seed(0)
    model = ready(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), mode)
    fast, _ = optimize(model, image(), mode, memory_format=memory_format, tune=False)
    for x in (image(), image().to(memory_format=torch.channels_last)):
        y = fast(x)
        wanted = torch.channels_last if x.stride(1) == 1 else memory_format
        assert y.is_contiguous(memory_format=wanted)
    if mode == "train":
        same_step(fast, model, image())
