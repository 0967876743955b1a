"""Linear layers of a few rows: the sums of torch.nn.Linear, and torch's own wherever the kernel is not meant."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import cnnkernels
from cnnkernels.nn import Linear


@pytest.fixture
def counted(count_direct):
    return count_direct("linear")


def made(c, k, bias=True):
    torch.manual_seed(0)
    return Linear(c, k, bias=bias)


def rows(n, c, seed=1):
    return torch.randn(n, c, generator=torch.Generator().manual_seed(seed))


def exact(layer, x):
    bias = None if layer.bias is None else layer.bias.detach().double()
    return nn.functional.linear(x.detach().double(), layer.weight.detach().double(), bias)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 11, 16])
@pytest.mark.parametrize(("c", "k"), [(1, 1), (7, 3), (8, 4), (33, 5), (64, 130), (1280, 1000)])
def test_equals_the_sum(c, k, n, isa, threads, counted, poison_empty):
    layer, x = made(c, k, bias=k % 2 == 0), rows(n, c)
    with torch.no_grad():
        y = layer(x)
    # A sum of c products in float32 keeps within a few of its last places.
    size = x.double().abs() @ layer.weight.detach().double().abs().T + 1
    assert ((y - exact(layer, x)).abs() <= 1e-6 * size).all()
    assert counted.calls == 1 and y.is_contiguous() and y.dtype is torch.float32


def test_rows_and_threads_do_not_show(counted):
    layer, x, before = made(260, 517), rows(9, 260), torch.get_num_threads()
    with torch.no_grad():
        results = []
        for n in (1, 2):
            torch.set_num_threads(n)
            results.append(layer(x))
        torch.set_num_threads(before)
        assert torch.equal(*results)
        assert torch.equal(layer(x[4:5]), results[0][4:5])
    assert counted.calls == 3


def test_special_numbers(counted):
    layer, x = made(9, 4), rows(2, 9)
    x[0, 3], x[1, 2] = float("nan"), float("inf")
    with torch.no_grad():
        y = layer(x)
        assert y[0].isnan().all() and torch.equal(y[1], torch.copysign(torch.full((4,), torch.inf), layer.weight[:, 2]))
    assert counted.calls == 1


ELSEWHERE = {
    "rows": (lambda m: m, lambda: rows(17, 12)),
    "no rows": (lambda m: m, lambda: rows(0, 12)),
    "one dimension": (lambda m: m, lambda: rows(1, 12)[0]),
    "three dimensions": (lambda m: m, lambda: rows(4, 12).view(2, 2, 12)),
    "strides": (lambda m: m, lambda: rows(12, 4).T),
    "float64": (lambda m: m.double(), lambda: rows(2, 12).double()),
    "bfloat16": (lambda m: m.bfloat16(), lambda: rows(2, 12).bfloat16()),
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_what_the_kernel_does_not_take_is_torchs(case, counted):
    change, x = ELSEWHERE[case][0], ELSEWHERE[case][1]()
    layer = change(made(12, 5))
    with torch.no_grad():
        assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    assert counted.calls == 0


def test_transposed_weights_are_torchs(counted):
    layer = made(12, 5)
    layer.weight = nn.Parameter(layer.weight.detach().T.contiguous().T)
    with torch.no_grad():
        torch.testing.assert_close(layer(rows(2, 12)).double(), exact(layer, rows(2, 12)), rtol=1e-5, atol=1e-5)
    assert counted.calls == 0


def test_gradients(counted):
    layer = made(12, 5)
    plain = nn.Linear(12, 5)
    plain.load_state_dict(layer.state_dict())
    for m in (layer, plain):
        m(rows(3, 12)).square().sum().backward()
    assert torch.equal(layer.weight.grad, plain.weight.grad) and torch.equal(layer.bias.grad, plain.bias.grad)
    x = rows(3, 12).requires_grad_()
    layer.requires_grad_(False)(x).sum().backward()
    assert x.grad is not None and counted.calls == 0
    layer(rows(3, 12))  # nothing asks for a gradient
    assert counted.calls == 1


def test_whoever_looks_on_sees_the_layer(counted):
    layer, x = made(12, 5), rows(2, 12)
    with torch.no_grad(), cnnkernels.use_backend("reference"):
        layer(x)
    with torch.no_grad(), torch.autocast("cpu"):
        assert layer(x).dtype is torch.bfloat16
    torch.fx.symbolic_trace(nn.Sequential(layer))(x)
    torch.func.vmap(layer)(rows(6, 12).view(3, 2, 12))
    torch.nn.utils.parametrizations.weight_norm(layer)
    with torch.no_grad():
        layer(x)
    assert counted.calls == 0


def test_wrong_sizes_are_torchs_error(counted):
    with torch.no_grad(), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        made(12, 5)(rows(2, 13))
    assert counted.calls == 0


def test_it_is_a_linear_layer(counted):
    layer = made(12, 5)
    again = copy.deepcopy(layer)
    with torch.no_grad():
        layer.weight.mul_(2)
        assert not torch.equal(layer(rows(2, 12)), again(rows(2, 12)))
    assert isinstance(layer, nn.Linear) and list(layer.state_dict()) == ["weight", "bias"]
    exported = torch.export.export(layer, (rows(2, 12),)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(rows(2, 12)), layer(rows(2, 12)))
