"""The snapshot that the plans of blocks rest on: it holds exactly until something of what it saw is another object."""

from __future__ import annotations

import gc
import sys
import types

import pytest
import torch

from cnnkernels import _ext

pytestmark = pytest.mark.skipif(_ext.module is None, reason="needs the extension")


def snapshot():
    return _ext.module.Snapshot()


class A:
    pass


class B:
    pass


def test_an_empty_one_holds():
    assert snapshot().holds()


def test_type():
    s, a = snapshot(), A()
    s.type(a)
    assert s.holds()
    a.__class__ = B
    assert not s.holds()
    a.__class__ = A
    assert s.holds()


@pytest.mark.parametrize("other", [2.0, None, (1,)])
def test_an_item_becomes_another(other):
    s, d = snapshot(), {"a": 1.0, "b": 2}
    s.item(d, "a")
    d["b"] = 3
    assert s.holds()
    d["a"] = other
    assert not s.holds()


def test_an_item_goes_or_comes():
    d = {"a": 1.0}
    there, away = snapshot(), snapshot()
    there.item(d, "a")
    away.item(d, "forward")
    d["forward"] = print
    assert there.holds() and not away.holds()
    del d["a"], d["forward"]
    assert away.holds() and not there.holds()


def test_equal_is_not_the_same():
    s, d = snapshot(), {"a": [1]}
    s.item(d, "a")
    d["a"] = [1]
    assert not s.holds()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(c=A()),
        lambda d: d.update(a=A()),
        lambda d: d.pop("a"),
        lambda d: d.clear(),
        lambda d: d.update(a=d["b"], b=d["a"]),
        lambda d: d.update(a=d.pop("a")),  # to the end
    ],
    ids=["another", "replaced", "one less", "none", "exchanged", "order"],
)
def test_items(change):
    s, d = snapshot(), {"a": A(), "b": A()}
    s.items(d)
    assert s.holds()
    change(d)
    assert not s.holds()


def write(t):
    t.add_(1)


def write_a_view(t):
    t[0].mul_(2)


def other_storage(t):
    t.data = torch.ones(3, 3)


@pytest.mark.parametrize("change", [write, write_a_view, other_storage])
def test_tensor(change):
    s, t = snapshot(), torch.zeros(3, 3)
    s.tensor(t)
    t.sum()
    assert s.holds()
    with torch.no_grad():
        change(t)
    assert not s.holds()


def test_errors_pass_through():
    with pytest.raises(TypeError):
        snapshot().item({}, [])  # not hashable
    with pytest.raises(TypeError):
        snapshot().tensor(object())
    with torch.inference_mode(), pytest.raises(RuntimeError, match="version"):
        snapshot().tensor(torch.zeros(1))


def test_nothing_leaks():
    def counts(*objects):
        return [sys.getrefcount(o) for o in objects]

    module, value, tensor = types.SimpleNamespace(), A(), torch.zeros(2)
    d = {"a": value}
    before = counts(module, value, tensor, d)
    s = snapshot()
    s.type(module), s.item(d, "a"), s.items(d), s.tensor(tensor)
    for _ in range(100):
        assert s.holds()
    del s
    gc.collect()
    assert counts(module, value, tensor, d) == before
