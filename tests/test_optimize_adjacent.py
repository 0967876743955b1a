"""Neighbours in a forward that cannot be traced run as one unit, and give the network's values whatever the forward does."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cnnkernels.nn import _unit
from cnnkernels.optimize import _adjacent, _choose, api, optimize, restore
from cnnkernels.optimize._measure import Latencies
from cnnkernels.optimize._pending import Joined

from .optimize_oracle import exact, image, ready, relative, same_step, swapped


class Opaque(nn.Module):
    """``body(self, x)``, which looks at values first; conv, bn, act and a second convolution."""

    def __init__(self, body, act=None, depthwise=False):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, groups=8 if depthwise else 1)
        self.bn, self.act = nn.BatchNorm2d(8), act or nn.ReLU()
        self.body = body

    def forward(self, x):
        if x.sum() == 12345:
            return x
        return self.body(self, x)


def _unit_of_three(m, x):
    return m.act(m.bn(m.conv(x)))


def joined(model):
    return [name for name, m in model.named_modules() if isinstance(m, Joined)]


@pytest.fixture
def units(monkeypatch):
    """Counts the fused units that run."""
    calls, run = [], _unit.run

    def counted(*args, **kwargs):
        calls.append(args[3:6])
        return run(*args, **kwargs)

    monkeypatch.setattr(_unit, "run", counted)
    return calls


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU(), nn.LeakyReLU(0.2)], ids=str)
def test_three_neighbours_are_one_unit(act, depthwise, units):
    model, x = ready(Opaque(_unit_of_three, copy.deepcopy(act), depthwise)), image(8)
    fast, report = optimize(model, x, tune=False)
    assert swapped(report) == {"conv": 1}
    assert [e.name for e in report.entries] == ["Opaque", "conv"]
    assert "control flow" in report.entries[0].why
    assert joined(fast) == ["conv", "bn", "act"]
    units.clear()
    with torch.no_grad():
        y = fast(x)
    assert len(units) == 1 and None not in units[0]
    assert type(y) is torch.Tensor
    assert relative(y, exact(model, x)) < 1e-5
    assert list(fast.state_dict()) == list(model.state_dict())
    assert isinstance(fast.conv, nn.Conv2d) and fast.conv.weight is model.conv.weight
    assert not joined(model)


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: F.relu(m.bn(m.conv(x))),
        lambda m, x: m.bn(m.conv(x)),
        lambda m, x: m.act(m.conv(x)),
    ],
    ids=["conv and bn, function", "conv and bn", "conv and act"],
)
def test_two_neighbours_are_one_unit(body, units):
    model, x = ready(Opaque(body)), image(8)
    fast, report = optimize(model, x, tune=False)
    assert swapped(report) == {"conv": 1}
    assert len(joined(fast)) == 2
    units.clear()
    with torch.no_grad():
        assert relative(fast(x), exact(model, x)) < 1e-5
    assert len(units) == 1


@pytest.mark.parametrize("slower", [False, True])
def test_neighbours_are_timed_as_they_are_called(slower, monkeypatch):
    times = {False: [[2e-3], [1e-3]], True: [[1e-3], [2e-3]]}[slower]
    monkeypatch.setattr(_adjacent, "interleaved_times", lambda *args, **kwargs: times)
    monkeypatch.setattr(_choose, "SLOWER", 1e9)  # the unit alone is fast enough
    model, x = ready(Opaque(_unit_of_three)), image(8)
    monkeypatch.setattr(api, "latencies", lambda *args: Latencies(2.0, "contiguous", 1.0, False))
    fast, report = optimize(model, x)
    assert joined(fast) == ([] if slower else ["conv", "bn", "act"])
    (entry,) = (e for e in report.entries if e.kind == "conv")
    assert (entry.status, entry.why) == (("undone", "slower") if slower else ("swapped", ""))
    assert (entry.before_ms, entry.after_ms) == ((1.0, 2.0) if slower else (2.0, 1.0))
    with torch.no_grad():
        assert relative(fast(x), exact(model, x)) < 1e-5


def _in_between(m, x):
    return m.act(m.bn(m.conv(x) + 1))


def _twice(m, x):
    return m.act(m.bn(m.conv(m.act(m.bn(m.conv(x))))))


def _other_tensor(m, x):
    m.conv(x)
    return m.act(m.bn(x))


def _changed_in_place(m, x):
    y = m.conv(x)
    y.mul_(2)
    return m.act(m.bn(y))


def _other_order(m, x):
    return m.conv(m.act(m.bn(x)))


@pytest.mark.parametrize("body", [_in_between, _twice, _other_tensor, _changed_in_place, _other_order])
def test_what_is_not_adjacent_is_left_alone(body):
    model, x = ready(Opaque(body)), image(8)
    fast, report = optimize(model, x, tune=False)
    expected = ["bn", "act"] if body in (_in_between, _changed_in_place) else []
    assert "conv" not in joined(fast), str(report)
    assert set(joined(fast)) <= set(expected)
    with torch.no_grad():
        assert relative(fast(x), exact(model, x)) < 1e-5


def _branch(m, x):
    y = m.conv(x)
    return y if x.mean() > 50 else m.act(m.bn(y))


def _branch_behind_the_norm(m, x):
    y = m.bn(m.conv(x))
    return y.flip(1) if x.mean() > 50 else m.act(y)


def _other_operand(m, x):
    y = m.conv(x)
    return m.act(m.bn(x if x.mean() > 50 else y))


def _read_again(m, x):
    y = m.bn(m.conv(x))
    z = m.act(y)
    return torch.cat([z, y, z + y.shape[1]], 1)


def _first_result_too(m, x):
    u = m.conv(x)
    return m.act(m.bn(u)) + u.mean((2, 3), keepdim=True)


def _kept(m, x):
    y = m.conv(x)
    m.kept = [y]
    return m.act(m.bn(y)) + (m.kept[0] if x.mean() > 50 else 0)


def _as_dictionary(m, x):
    y = m.conv(x)
    z = m.act(m.bn(y))
    return {"z": z, "list": [y, (z,)]} if x.mean() > 50 else {"z": z, "list": [z, (z,)]}


BODIES = (_branch, _branch_behind_the_norm, _other_operand, _read_again, _first_result_too, _kept, _as_dictionary)


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU(inplace=True)], ids=str)
@pytest.mark.parametrize("body", BODIES)
def test_values_whatever_the_forward_does(body, act):
    model, x = ready(Opaque(body, copy.deepcopy(act))), image(8)
    fast, report = optimize(model, x, tune=False)
    assert joined(fast) == ["conv", "bn", "act"], str(report)
    for argument in (x, x + 100):
        with torch.no_grad():
            ours, theirs = fast(argument), exact(model, argument)
        flat, _ = torch.utils._pytree.tree_flatten(ours)
        expected, _ = torch.utils._pytree.tree_flatten(theirs)
        for a, b in zip(flat, expected, strict=True):
            assert type(a) is torch.Tensor
            assert relative(a, b) < 1e-5


def test_argument_that_changes_before_the_result_is_read_is_an_error_not_a_wrong_value():
    def body(m, x):
        y = m.conv(x)
        if x.mean() > 50:
            x.mul_(2)
        return m.act(m.bn(y))

    model, x = ready(Opaque(body)), image(8)
    fast, _ = optimize(model, x, tune=False)
    with torch.no_grad(), pytest.raises(RuntimeError, match="has changed before its result was read"):
        fast(x + 100)


def test_changes_afterwards():
    model, x = ready(Opaque(_unit_of_three)), image(8)
    fast, _ = optimize(model, x, tune=False)
    stages = [
        lambda: fast.conv.weight.data.mul_(1),
        lambda: fast.conv.weight.mul_(-1),
        lambda: fast.bn.running_var.mul_(3),
        lambda: fast.load_state_dict({k: v * 2 for k, v in fast.state_dict().items()}),
        lambda: fast.load_state_dict({k: v * 2 for k, v in fast.state_dict().items()}, assign=True),
        lambda: fast.bn.register_forward_hook(lambda m, a, y: y + 1),
        lambda: fast.bn._forward_hooks.clear(),
        lambda: nn.utils.parametrizations.weight_norm(fast.conv),
        lambda: setattr(fast, "conv", nn.Conv2d(8, 8, 1)),
        lambda: setattr(fast, "act", nn.Sigmoid()),
    ]
    with torch.no_grad():
        for change in stages:
            change()
            plain = copy.deepcopy(fast)
            plain.drop_programs()
            assert not joined(plain) or "ParametrizedJoinedConv2d" in repr(plain)
            assert relative(fast(x), plain(x)) < 1e-5


def test_dtypes_gradients_and_training():
    model, x = ready(Opaque(_unit_of_three)), image(8)
    plain = copy.deepcopy(model)
    fast, _ = optimize(model, x, tune=False)
    assert not fast(x).requires_grad
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    fast(a).square().sum().backward()
    plain(b).square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert fast(x).dtype is plain(x).dtype
    with torch.inference_mode():
        assert relative(fast(x.clone()), exact(plain, x.clone())) < 1e-5
    same_step(fast.train(), plain.train(), x)
    fast.eval().double()
    with torch.no_grad():
        after = copy.deepcopy(fast)
        after.drop_programs()
        assert relative(fast(x.double()), after(x.double())) < 1e-12


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies(again, units):
    model, x = ready(Inside()), image(8)
    fast, _ = optimize(model, x, tune=False)
    with torch.no_grad():
        fast(x)
        twin = again(fast)
        fast.opaque.conv.weight.mul_(2)
        units.clear()
        y = twin(x)
        assert len(units) == 1
        plain = restore(twin)
        assert type(plain) is Inside and not joined(plain)
        assert relative(y, exact(plain, x)) < 1e-5
        assert relative(fast(x), y) > 1e-2


class Inside(nn.Module):
    """Something opaque among what can be traced."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.MaxPool2d(2), nn.Flatten()
        self.opaque = Opaque(_unit_of_three_of_class)

    def forward(self, x):
        return self.last(self.opaque(self.first(x)))


def _unit_of_three_of_class(m, x):
    return m.act(m.bn(m.conv(x)))


def test_training_mode_leaves_neighbours_alone():
    model, x = ready(Opaque(_unit_of_three), "train"), image(8)
    fast, report = optimize(model, x, "train", tune=False)
    assert swapped(report) == {} and not joined(fast)
    same_step(fast, model, x)
