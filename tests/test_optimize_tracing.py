"""Networks that torch.fx does not follow, in whole or in part: the results are theirs, the report says why."""

import random
from collections import namedtuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cnnkernels.optimize import optimize

from .optimize_oracle import MODES, Small, exact, image, ready, relative, same_step, swapped

Pair = namedtuple("Pair", "logits features")


class Parts(nn.Module):
    """A unit, and ``body(self, x)`` with it."""

    def __init__(self, body):
        super().__init__()
        torch.manual_seed(0)
        self.unit = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.other = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.classifier = nn.Linear(8, 5)
        self.calls = 0
        self.body = body

    def forward(self, x):
        return self.body(self, x)


def _values(m, x):
    y = m.unit(x)
    return m.other(y) if y.mean() > 0 else y


def _python_random(m, x):
    return m.unit(x) * random.choice([1, 1.0, True]) if random.random() < 2 else x


def _numpy(m, x):
    return m.unit(x) * float(np.ones(1).sum()) + torch.from_numpy(m.unit(x).detach().numpy())


def _data_dependent_shape(m, x):
    y = m.unit(x)
    return y[y > 0.1]


def _item(m, x):
    return m.unit(x) * float(x.abs().max().item())


def _assertion(m, x):
    assert x.max() < 1e6
    return m.other(m.unit(x))


def _sizes_as_numbers(m, x):
    y = m.unit(x)
    return F.interpolate(m.other(y), size=(int(y.shape[2]) * 2, int(y.shape[3])))


def _loop_over_the_batch(m, x):
    return torch.stack([m.unit(image[None])[0] for image in x])


def _grows_a_list(m, x):
    m.calls += 1
    return m.other(m.unit(x)) * (1 + m.calls * 0)


def _tries(m, x):
    try:
        return m.other(m.unit(x)).view(3, 3)
    except RuntimeError:
        return m.unit(x)


def _type_of_argument(m, x):
    """fx's proxies are no tensors."""
    return m.other(m.unit(x)) if isinstance(x, torch.Tensor) else m.unit(x)


UNTRACEABLE = (_values, _numpy, _item, _assertion, _loop_over_the_batch, _tries, _type_of_argument)
OTHERS = (_python_random, _data_dependent_shape, _sizes_as_numbers, _grows_a_list)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("body", [*UNTRACEABLE, *OTHERS])
def test_forward_that_is_hard_to_trace(body, mode):
    model, x = ready(Parts(body), mode), image()
    fast, report = optimize(model, x, mode, tune=False)
    assert swapped(report).get("conv", 0) >= 1, str(report)  # the units are found, as parts if not otherwise
    if body in UNTRACEABLE:
        (entry,) = (e for e in report.entries if e.kind == "module" and e.name == "Parts")
        assert entry.status == "skipped" and entry.why.startswith("cannot be traced: ")
        assert not fast.runs_program() and fast.unit.runs_program()
    if mode == "infer":
        with torch.no_grad():
            for argument in (x, 3 * x, image(size=20, n=3)):
                assert relative(fast(argument), exact(model, argument)) < 1e-5
    else:
        same_step(fast, model, x)


def test_branches_on_values_take_the_right_branch():
    model, x = ready(Parts(_values)), image()
    with torch.no_grad():
        model.unit[1].bias.fill_(-100)  # the other branch
        fast, _ = optimize(model, x, tune=False)
        assert fast(x).max() == 0
        fast.unit[1].bias.fill_(0)
        assert relative(fast(x), exact(model, x)) < 1e-5


def _dictionary(m, x):
    y = m.unit(x)
    return {"out": m.classifier(y.mean((2, 3))), "features": [y, (m.other(y), None)]}


def _named_tuple(m, x):
    y = m.unit(x)
    return Pair(m.classifier(y.mean((2, 3))), y)


def _list(m, x):
    return [m.unit(x), m.other(m.unit(x)), 3]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("body", [_dictionary, _named_tuple, _list])
def test_results_of_other_structure(body, mode):
    model, x = ready(Parts(body), mode), image()
    fast, report = optimize(model, x, mode, tune=False)
    assert fast.runs_program() and swapped(report)
    model.eval(), fast.eval()
    with torch.no_grad():
        ours, theirs = fast(x), exact(model, x)
    assert type(ours) is type(theirs)
    flat, structure = torch.utils._pytree.tree_flatten(ours)
    expected, same_structure = torch.utils._pytree.tree_flatten(theirs)
    assert structure == same_structure
    for a, b in zip(flat, expected, strict=True):
        assert relative(a, b) < 1e-5 if isinstance(a, torch.Tensor) else a == b


class Keywords(Parts):
    def __init__(self):
        super().__init__(None)

    def forward(self, x, scale=1.0, *, flip=False, **options):
        y = self.unit(x) * scale
        return y.flip(options.get("dim", 3)) if flip else y


@pytest.mark.parametrize("mode", MODES)
def test_keyword_arguments(mode):
    model, x = ready(Keywords(), mode), image()
    fast, report = optimize(model, x, mode, tune=False)
    assert swapped(report) == {"conv": 1}
    model.eval(), fast.eval()
    with torch.no_grad():
        for args, kwargs in (
            ((x,), {}),
            ((x, 2.0), {}),
            ((x,), {"flip": True}),
            ((x,), {"flip": True, "dim": 2}),
            ((), {"x": x}),
        ):
            torch.testing.assert_close(fast(*args, **kwargs), model(*args, **kwargs), rtol=1e-4, atol=1e-5)


class Two(Parts):
    def forward(self, x, y, times=1):
        return self.unit(x) * times + self.unit(y)


@pytest.mark.parametrize("mode", MODES)
def test_several_arguments(mode):
    model, x = ready(Two(None), mode), image()
    for example in ((x, x.flip(3)), (x, x.flip(3), 3)):
        fast, report = optimize(model, example, mode, tune=False)
        assert sum(swapped(report).values()) == 2
        fast.eval()
        with torch.no_grad():
            for args in ((x, x), (x, x, 5), (x, x, 1)):
                torch.testing.assert_close(fast(*args), model.eval()(*args), rtol=1e-4, atol=1e-5)
        model.train(mode == "train")


class Holder(nn.Module):
    """Something opaque between what can be traced; ``names`` of modules in it."""

    def __init__(self, body):
        super().__init__()
        torch.manual_seed(0)
        self.before = nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), nn.BatchNorm2d(3), nn.ReLU())
        self.middle = Parts(body)
        self.after = nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x):
        return self.after(self.middle(self.before(x)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("body", [_values, _item, _loop_over_the_batch])
def test_opaque_module_in_a_network(body, mode):
    model, x = ready(Holder(body), mode), image()
    fast, report = optimize(model, x, mode, tune=False)
    assert fast.runs_program() and fast.middle.unit.runs_program()
    (entry,) = (e for e in report.entries if e.kind == "module")
    assert (entry.name, entry.status) == ("middle", "skipped")
    names = {e.name for e in report.swapped}
    assert {"before.0", "middle.unit.0", "after.0"} <= names
    if mode == "infer":
        with torch.no_grad():
            assert relative(fast(x), exact(model, x)) < 1e-5
    else:
        same_step(fast, model, x)


def test_random_numbers_of_python_are_drawn_at_every_call():
    def body(m, x):
        return m.unit(x) * random.choice([1.0, 2.0])

    model, x = ready(Parts(body)), image()
    fast, report = optimize(model, x, verify=False, tune=False)
    assert "not the same twice" in report.entries[0].why
    with torch.no_grad():
        ratios = {round(float(fast(x).sum() / model.unit(x).sum()), 3) for _ in range(40)}
    assert ratios == {1.0, 2.0}


def test_tensors_made_in_forward_follow_the_arguments():
    def body(m, x):
        y = m.unit(x)
        grid = torch.arange(y.shape[3], dtype=y.dtype, device=y.device)
        return y + grid + torch.zeros_like(y)

    model, x = ready(Parts(body)), image()
    fast, _ = optimize(model, x, tune=False)
    with torch.no_grad():
        for argument in (x, image(size=20), image(n=3)):
            assert relative(fast(argument), exact(model, argument)) < 1e-5


def test_network_without_anything_to_fuse():
    model = nn.Sequential(nn.Flatten(), nn.Tanh())
    fast, report = optimize(model, image(), tune=False)
    assert swapped(report) == {}
    assert "nothing to gain" in str(report)
    assert torch.equal(fast(image()), model(image()))


@pytest.mark.parametrize("mode", MODES)
def test_submodule_that_is_called_by_two_names(mode):
    model = ready(Small(), mode)
    model.alias = model.stem
    x = image()
    fast, report = optimize(model, x, mode, tune=False)
    assert fast.alias is fast.stem
    assert swapped(report)
    model.eval(), fast.eval()
    with torch.no_grad():
        assert relative(fast(x), exact(model, x)) < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_shared_weights(mode):
    torch.manual_seed(0)
    first, second = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, bias=False)
    second.weight = first.weight
    model = ready(nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), second, nn.BatchNorm2d(8)), mode)
    fast, report = optimize(model, image(8), mode, tune=False)
    assert swapped(report) == {"conv": 2}
    assert fast[0].weight is fast[3].weight is first.weight
    if mode == "train":
        same_step(fast, model, image(8))
    else:
        with torch.no_grad():
            assert relative(fast(image(8)), exact(model, image(8))) < 1e-5
