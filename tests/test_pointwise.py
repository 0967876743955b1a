"""1x1 convolutions beyond the contract table: digits and infinities behind a gate, weights at an odd address."""

from __future__ import annotations

import pytest
import torch

import cnnkernels
from cnnkernels import ops

from .conftest import DEVICE

BACKENDS = ("reference", "cpu", "cuda", "triton") if DEVICE == "cpu" else ("reference", "cuda", "triton")


def sample(dtype, layout=torch.channels_last):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 40, 3, 8, generator=g).to(DEVICE, dtype).to(memory_format=layout)
    weight = (torch.randn(24, 40, 1, 1, generator=g) * 0.15).to(DEVICE, dtype)
    return x, weight, torch.ones(24, device=DEVICE), torch.zeros(24, device=DEVICE)


@pytest.mark.parametrize("channels", [2, 16])  # element by element, and in vectors
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels_last", "nchw"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_gate_keeps_its_digits(backend, dtype, layout, channels):
    """(1 + e) * (1 + e) - (1 + 2e) is e * e, which is gone where the product is rounded to a half first."""
    e = torch.finfo(dtype).eps
    x = torch.zeros(1, channels, 4, 4, device=DEVICE, dtype=dtype)
    x[:, 0], x[:, 1] = 1 + e, 1 + 2 * e
    gate, weight = x.new_ones(1, channels), x.new_zeros(1, channels, 1, 1)
    gate[:, 0], weight[:, 0], weight[:, 1] = 1 + e, 1, -1
    one, zero = torch.ones(1, device=DEVICE), torch.zeros(1, device=DEVICE)
    y = ops.pointwise_conv_bn_act(x.to(memory_format=layout), weight, one, zero, gate=gate)
    assert torch.equal(y.float(), torch.full_like(y, e * e, dtype=torch.float32))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels_last", "nchw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_infinity_behind_a_gate(backend, dtype, layout):
    """An infinite input makes its own pixel's outputs infinite, of the sign of the weight: not NaN, and no other pixel's."""
    x, weight, scale, shift = sample(dtype, layout)
    gate = torch.rand(2, 40, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    finite = ops.pointwise_conv_bn_act(x, weight, scale, shift, gate=gate)
    x[1, 7, 2, 3] = float("inf")
    with cnnkernels.record_backends() as runs:
        y = ops.pointwise_conv_bn_act(x, weight, scale, shift, gate=gate)
    assert [r.backend for r in runs] == [backend]
    assert torch.equal(y[1, :, 2, 3], float("inf") * weight[:, 7, 0, 0].sign())
    y[1, :, 2, 3] = finite[1, :, 2, 3]
    assert finite.isfinite().all() and torch.equal(y, finite)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "reference"], indirect=True)
def test_weight_and_gate_at_an_odd_address(backend, dtype):
    """Contiguous, as part of a larger buffer, but not where a vector may start: the same bits as from an aligned copy."""
    x, weight, scale, shift = sample(dtype)
    gate = torch.rand(2, 40, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    want = ops.pointwise_conv_bn_act(x, weight, scale, shift, gate=gate)

    def moved(t):
        buffer = torch.cat([t.new_zeros(1), t.flatten()])
        return buffer[1:].view(t.shape)

    odd_weight, odd_gate = moved(weight), moved(gate)
    assert odd_weight.is_contiguous() and odd_weight.data_ptr() % 16 and odd_gate.data_ptr() % 16
    assert torch.equal(ops.pointwise_conv_bn_act(x, odd_weight, scale, shift, gate=odd_gate), want)
