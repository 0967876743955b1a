"""Units of ShuffleNetV2 in evaluation on a CPU: a stage is one call, equal to its modules, while nothing has changed."""

from __future__ import annotations

import copy

import pytest
import torch

import cnnkernels
from cnnkernels.nn import ShuffleStage, ShuffleUnit

from .nn_oracle import close, randomise
from .nn_oracle import last_image as image


@pytest.fixture
def counted(count_direct):
    return count_direct("shuffle_stage")


def made(in_channels, channels, units, **kw):
    stage = ShuffleStage(
        *(ShuffleUnit(channels if i else in_channels, channels, 1 if i else 2, **kw) for i in range(units))
    )
    return randomise(stage).eval()


def modules(stage, x):
    """What the modules compute, one by one."""

    def branch(children, x):
        for child in children:
            x = child(x)
        return x

    for unit in stage:
        left, right = (x, x) if unit.stride == 2 else x.chunk(2, 1)
        y = torch.cat((branch(unit.branch1, left), branch(unit.branch2, right)), 1)
        x = y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
    return x


STAGES = {
    "x1": lambda: made(24, 116, 4),
    "odd halves": lambda: made(5, 38, 3),
    "narrow": lambda: made(3, 2, 2),
    "one unit": lambda: made(16, 32, 1),
    "5x5": lambda: made(8, 16, 3, kernel_size=5, act="hard_swish"),
    "leaky": lambda: made(8, 48, 2, act="leaky_relu(0.2)"),
}


@pytest.mark.parametrize("size", [(14, 14), (9, 7), (1, 1), (40, 31)], ids=str)
@pytest.mark.parametrize("n", [1, 2, 3, 9])
@pytest.mark.parametrize("stage", STAGES)
def test_equals_the_modules(stage, n, size, threads, counted):
    m = STAGES[stage]()
    x = image(m[0].branch1[0].in_channels, size, n)
    before = x.clone()
    with torch.no_grad():
        y = m(x)
        close(y, modules(m, x))
    assert counted.calls == 1
    assert torch.equal(x, before) and y.is_contiguous(memory_format=torch.channels_last)


def test_units_without_a_strided_one(threads, counted):
    m = randomise(ShuffleStage(ShuffleUnit(32, 32), ShuffleUnit(32, 32))).eval()
    x = image(32, (9, 8), 3)
    with torch.no_grad():
        close(m(x), modules(m, x))
        close(m[0](x), modules(m[:1], x))
    assert counted.calls == 2


def test_every_element_is_written(counted, poison_empty):
    with torch.no_grad():
        assert torch.isfinite(made(5, 38, 3)(image(5, (21, 13), 3))).all()
    assert counted.calls == 1


def test_threads_do_not_show(counted):
    m, before, results = made(24, 116, 4), torch.get_num_threads(), []
    for n in (1, 2):
        torch.set_num_threads(n)
        with torch.no_grad():
            results += [m(image(24, (28, 28), 5)), m(image(24, (28, 28), 5)[:1])]
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[2]) and torch.equal(results[1], results[3])
    assert torch.equal(results[0][:1], results[1])
    assert counted.calls == 4


def change_weight(m):
    m[1].branch2[5].weight.mul_(1.5)


def change_left_weight(m):
    m[0].branch1[0].weight.mul_(1.5)


def change_statistics(m):
    m[2].branch2[4].running_var.mul_(2)


def change_eps(m):
    m[0].branch1[3].eps = 0.5


def replace_left_branch(m):
    m[0].branch1 = copy.deepcopy(m[0].branch1)
    m[0].branch1[0].weight.mul_(1.5)


def load(m):
    m.load_state_dict({k: v * 1.25 if v.is_floating_point() else v for k, v in m.state_dict().items()})


@pytest.mark.parametrize(
    "change", [change_weight, change_left_weight, change_statistics, change_eps, replace_left_branch, load]
)
def test_changes_are_seen(change, counted):
    m, x = made(8, 32, 3), image(8, (9, 9))
    with torch.no_grad():
        old = m(x)
        change(m)
        close(m(x), modules(m, x))
        assert not torch.allclose(m(x), old)
    assert counted.calls == 3


@pytest.mark.parametrize(
    ("path", "calls"),
    [("0.branch1.4", 0), ("0.branch2.7", 0), ("1.branch2.0", 1), ("1.branch1", 1), ("2.branch2", 2)],
)
def test_hooks_are_called(path, calls, counted):
    """What lies before the hook still is a call a unit."""
    m, x = made(8, 32, 3), image(8, (9, 9))
    with torch.no_grad():
        want = m(x)
        seen = []
        m.get_submodule(path).register_forward_hook(lambda module, args, y: seen.append(y))
        counted.calls = 0
        close(m(x), want)
    assert len(seen) == 1 and counted.calls == calls


def reference(m, x):
    with cnnkernels.use_backend("reference"):
        return m(x)


def test_a_hook_on_a_unit_sees_its_map(counted):
    m, x = made(8, 32, 3), image(8, (9, 9))
    seen = []
    with torch.no_grad():
        want = m(x)
        m[0].register_forward_hook(lambda module, args, y: seen.append(y))
        close(m(x), want)
    assert len(seen) == 1


def test_a_hook_that_doubles(counted):
    m, x = made(8, 32, 3), image(8, (9, 9))
    with torch.no_grad():
        m(x)
        m[2].branch2[7].register_forward_hook(lambda module, args, y: y * 2)
        close(m(x), modules(m, x))


def test_another_class_of_unit_is_called(counted):
    class Doubled(ShuffleUnit):
        def forward(self, x, split=False):
            return super().forward(x) * 2

    m, x = made(8, 32, 2), image(8, (9, 9))
    with torch.no_grad():
        want = m(x)
        m[1].__class__ = Doubled
        close(m(x), want * 2)


def test_another_unit_can_come(counted):
    m, x = made(8, 32, 2), image(8, (9, 9))
    with torch.no_grad():
        m(x)
        m.append(randomise(ShuffleUnit(32, 32)).eval())
        close(m(x), modules(m, x))
        del m[1]
        close(m(x), modules(m, x))
    assert counted.calls == 3


def test_training_gradients_and_layouts(counted):
    m, x = made(8, 32, 3), image(8, (9, 9))
    y = m(x)
    y.sum().backward()
    assert all(p.grad is not None for p in m.parameters())
    with torch.no_grad():
        close(m(x.contiguous()), y)
        close(reference(m, x), y)
        m[1].branch2[1].train()
        m(x)
        assert m[1].branch2[1].num_batches_tracked == 1
    assert counted.calls == 1  # the unit before the one in training
    m.eval().requires_grad_(False)
    counted.calls = 0
    xg = x.clone(memory_format=torch.preserve_format).requires_grad_()
    m(xg).sum().backward()
    assert xg.grad is not None and counted.calls == 0


def test_another_stride_in_a_branch_is_an_error(counted):
    m = made(8, 32, 2)
    m[0].branch1[0].stride = (1, 1)
    with torch.no_grad(), pytest.raises(ValueError, match=r"H=9, W=9 as a, got \[2, 16, 5, 5\]"):
        m(image(8, (9, 9)))
    assert counted.calls == 0


def test_bad_channels_are_an_error(counted):
    with torch.no_grad(), pytest.raises(ValueError, match=r"got \[8, 1, 3, 3\]"):
        made(8, 32, 2)(image(9, (9, 9)))
    assert counted.calls == 0
