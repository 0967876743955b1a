"""Which CUDA graph serves a call, and when it is made anew: with a stand-in for the graph, as there is no GPU here.

``test_on_gpu.py`` has the real ones.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cnnkernels import _ext
from cnnkernels.optimize import _graphs, optimize, restore
from cnnkernels.optimize import model as optimized_model
from cnnkernels.optimize._trace import OPTIMIZED

from .optimize_oracle import Small, image, ready

pytestmark = pytest.mark.skipif(_ext.module is None, reason=str(_ext.error))


class Replay:
    """Computes anew what was captured, from the weights of now, as a graph does that reads them where they are."""

    def __init__(self, forward, args):
        self.forward, self.calls = forward, 0
        with torch.no_grad():
            forward(*args)

    def __call__(self, args):
        self.calls += 1
        with torch.no_grad():
            return self.forward(*args)


@pytest.fixture
def captured(monkeypatch):
    made = []

    def capture(forward, args):
        made.append(Replay(forward, args))
        return made[-1]

    monkeypatch.setattr(_graphs, "capture", capture)
    monkeypatch.setattr(optimized_model, "can_serve", lambda args: True)
    return made


def with_graphs(model=None):
    model = ready(Small()) if model is None else model
    fast, _ = optimize(model, image(), tune=False)
    fast.__dict__[OPTIMIZED].graphs = _graphs.Graphs()
    return model, fast


def assert_same(fast, model, x):
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_one_graph_for_all_calls_of_a_size(captured):
    model, fast = with_graphs()
    for _ in range(3):
        assert_same(fast, model, image())
    assert len(captured) == 1 and captured[0].calls == 3
    assert_same(fast, model, image()[:1])
    assert_same(fast, model, image())
    assert len(captured) == 2


def test_no_more_than_some(captured, monkeypatch):
    monkeypatch.setattr(_graphs, "MOST", 2)
    model, fast = with_graphs()
    for n in (1, 2, 3, 4):
        assert_same(fast, model, torch.randn(n, *image().shape[1:]))
    assert len(captured) == 2


def change_a_weight(fast):
    with torch.no_grad():
        next(fast.parameters()).mul_(2)


def load_other_weights(fast):
    fast.load_state_dict({k: v * 2 if v.is_floating_point() else v for k, v in fast.state_dict().items()})


def replace_a_child(fast):
    name, child = next((n, m) for n, m in fast.named_modules() if isinstance(m, nn.Conv2d))
    fast.set_submodule(name, copy.deepcopy(child))
    with torch.no_grad():
        fast.get_submodule(name).weight.mul_(2)


def add_a_hook(fast):
    next(m for m in fast.modules() if isinstance(m, nn.Conv2d)).register_forward_hook(lambda m, a, y: y * 2)


@pytest.mark.parametrize("change", [change_a_weight, load_other_weights, replace_a_child, add_a_hook])
def test_a_change_is_followed(change, captured):
    _, fast = with_graphs()
    with torch.no_grad():
        before = fast(image())
    change(fast)
    with torch.no_grad():
        after = fast(image())
    assert len(captured) == 2
    assert not torch.allclose(before, after)
    with torch.no_grad():
        torch.testing.assert_close(after, fast._compute(image()), rtol=0, atol=0)


def test_modes_gradients_and_copies(captured):
    model, fast = with_graphs()
    assert_same(fast, model, image())
    fast.train()
    fast(image())
    x = image().requires_grad_()
    fast.eval()
    assert fast(x).requires_grad
    assert len(captured) == 1  # neither training nor gradients are a graph's
    twin = copy.deepcopy(fast)
    assert twin.__dict__[OPTIMIZED].graphs is not fast.__dict__[OPTIMIZED].graphs
    assert_same(twin, model, image())
    assert len(captured) == 2
    assert restore(fast) is model


def test_what_cannot_be_captured_runs_without(monkeypatch):
    def refuse(forward, args):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(_graphs, "capture", refuse)
    monkeypatch.setattr(optimized_model, "can_serve", lambda args: True)
    model, fast = with_graphs()
    with pytest.warns(RuntimeWarning, match="cannot be captured in a CUDA graph and runs without one: operation not"):
        assert_same(fast, model, image())
    assert_same(fast, model, image())  # without a second warning
    assert fast.__dict__[OPTIMIZED].graphs.refusal == "operation not permitted when stream is capturing"


def test_calls_without_a_gpu_are_not_served():
    assert not _graphs.can_serve((image(),))
    assert not _graphs.can_serve((3,))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cuda_graph": 1}, TypeError, "optimize: cuda_graph must be a bool, got int"),
        (
            {"cuda_graph": True},
            ValueError,
            "optimize: cuda_graph is for mode \"infer\" on a GPU, got mode 'infer' on cpu",
        ),
    ],
)
def test_refused(options, error, message):
    with pytest.raises(error) as caught:
        optimize(ready(Small()), image(), **options)
    assert str(caught.value) == message
