"""Every network beside an independent one: outputs in evaluation, one training step, fused beside plain modules."""

import copy
import gc
import importlib
import os
import pkgutil

import pytest
import torch
from torch import nn

import cnnkernels
from cnnkernels.models import list_models, model_entry
from tests import networks, oracles
from tests.networks.case import Case, images

CASES = {
    case.name: case
    for module in pkgutil.iter_modules(networks.__path__)
    if module.name != "case"
    for case in importlib.import_module(f"tests.networks.{module.name}").CASES
}


@pytest.mark.skipif("CI" not in os.environ, reason="only CI must have every package")
@pytest.mark.parametrize("package", oracles.PACKAGES)
def test_package_is_installed(package):
    assert oracles.package(package)


def test_every_network_is_here():
    assert sorted(CASES) == list_models(task="classification")


def close(actual, expected, tolerance, name=None):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item(), msg=name)


def in_float64(model, x):
    """What the plain modules compute in double precision."""
    model = copy.deepcopy(model).double()
    model.backend = "reference"
    return model(x.double())


def matched(ours, other, by_order, kind):
    """(name, our tensor, theirs) of every parameter or buffer."""
    a, b = dict(getattr(ours, kind)()), dict(getattr(other, kind)())
    names = b if by_order else a
    assert len(a) == len(b)
    return [(name, t, b[of]) for (name, t), of in zip(a.items(), names, strict=True)]


def repeats(case: Case) -> bool:
    """Whether its slow parts show what another network's have shown."""
    return bool(case.like) and os.environ.get("CNNKERNELS_TEST_NETWORKS") != "all"


@pytest.fixture(autouse=True)
def _memory_is_given_back():
    """Modules that are cycles of references keep gigabytes of gradients until Python looks for cycles."""
    yield
    gc.collect()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_outputs(case: Case, monkeypatch):
    """At the published size (of a family's first) and at an odd one; and the same from the plain modules.

    On the fused path no convolution is called as a module.
    """
    called = []
    convolution = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: (called.append(self), convolution(self, x))[1])
    size = model_entry(case.name).input_size
    ours, other = (m if m is None else m.eval() for m in case.pair())
    with torch.no_grad():
        for height, width in (case.odd,) if repeats(case) else ((size, size), case.odd):
            x = images(1, height, width)
            called.clear()
            y = ours(x)
            assert not called
            ours.backend = "reference"
            with cnnkernels.record_backends() as runs:
                plain = ours(x)
            ours.backend = None
            assert len(called) > 4  # and then they are
            assert not {r.backend for r in runs} - {"reference"}
            assert y.abs().max() > 1e-3  # a network that died would agree with anything
            others = [plain] if other is None else [plain, other(x)]
            tolerance = 1e-4 * plain.abs().max().item()
            if not all(torch.allclose(y, z, rtol=1e-4, atol=tolerance) for z in others):
                # 150 layers of random weights bring any float32 implementation up to 1e-4 away from the exact result, on
                # different sides of it: then each has to be that near.
                exact = in_float64(ours, x)
                for z in (y, *others):
                    close(z.double(), exact, 1e-4)


@pytest.mark.parametrize(
    "case", [c for c in CASES.values() if c.oracle], ids=[c.name for c in CASES.values() if c.oracle]
)
def test_training_step(case: Case):
    """Loss, every gradient and every running statistic, in float64, where two correct networks agree closely."""
    if repeats(case):
        pytest.skip(f"as {case.like}; runs with CNNKERNELS_TEST_NETWORKS=all")
    ours, other = case.pair()
    x, target = images(2, case.step_size).double(), torch.tensor([1, 3])
    losses = []
    for model in (ours, other):
        model.double().train()
        with cnnkernels.record_backends() as runs:
            loss = nn.functional.cross_entropy(model(x), target)
            loss.backward()
        losses.append(loss)
        if model is ours:
            assert case.ops <= {r.op for r in runs}
            assert {r.backend for r in runs} <= {"cpu"}, [r for r in runs if r.backend != "cpu"]
    close(losses[0], losses[1], 1e-9)
    gradients = [(name, p.grad, q.grad) for name, p, q in matched(ours, other, case.by_order, "named_parameters")]
    largest = max(g.abs().max().item() for _, _, g in gradients)
    for name, g, expected in gradients:
        # A bias before BatchNorm has a gradient of zero, which both compute as rounding errors.
        torch.testing.assert_close(
            g, expected, rtol=1e-6, atol=1e-8 * expected.abs().max().item() + 1e-12 * largest, msg=name
        )
    for name, a, b in matched(ours, other, case.by_order, "named_buffers"):
        close(a, b, 1e-9, name)
