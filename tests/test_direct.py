"""Calls that go from Python straight to the CPU kernels, past PyTorch's dispatcher (csrc/torch/direct.h)."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.autograd.forward_ad as forward_ad

from cnnkernels import _ext, _op, ops

from .cases import CASES

DIRECT = sorted(n for n, op in _op.REGISTRY.items() if op.direct is not None)


class NoDispatcher:
    def __getattr__(self, name):
        raise AssertionError(f"torch.ops.cnnkernels_native.{name} was asked for: the direct call did not serve")


@pytest.fixture
def no_dispatcher(monkeypatch):
    monkeypatch.setattr(_ext, "native_ops", NoDispatcher())


def test_this_torch_has_direct_calls():
    assert _ext.module is not None, _ext.error
    assert _ext.module.direct is not None and _ext.direct_ops is _ext.module.direct


def test_every_differentiable_op_has_a_direct_call():
    slow = {"concat_shuffle_split_backward", "dwconv_bn_act_backward"}  # these call more than one kernel, or rearrange
    detection = {"nms", "nms_padded", "detection_candidates"}
    assert set(_op.REGISTRY) - set(DIRECT) == slow | detection


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("name", DIRECT)
def test_dense_fp32_arguments_are_served_directly(name, layout, no_dispatcher):
    cases = [c for c in CASES if c.op == name and "cpu" in c.backends and layout in c.layouts]
    assert cases
    for case in cases[:3]:
        assert _op.REGISTRY[name](*case.build(torch.float32, layout)) is not None


def test_nothing_is_leaked():
    x, w, s = torch.randn(2, 8, 6, 6), torch.randn(8, 1, 3, 3), torch.rand(8)
    held = [t._use_count() for t in (x, w, s)]
    y = ops.dwconv_bn_act(x, w, s, s)
    gone = weakref.ref(y)
    del y
    gc.collect()
    assert gone() is None
    assert [t._use_count() for t in (x, w, s)] == held


def test_a_pending_negation_is_resolved():
    x = torch.randn(2, 3, 4, 4, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    torch.testing.assert_close(ops.mish(x), ops.mish(x.resolve_neg()), rtol=0, atol=0)


def test_a_tangent_is_not_dropped():
    x = torch.randn(2, 3, 4, 4)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(NotImplementedError, match="jvp"):
            ops.mish(dual)
        assert ops.mish(x).shape == x.shape


def test_inference_mode_and_parameters(no_dispatcher):
    w = torch.nn.Parameter(torch.randn(8, 1, 3, 3))
    with torch.inference_mode():
        y = ops.dwconv_bn_act(torch.randn(1, 8, 5, 5), w, torch.ones(8), torch.zeros(8))
    assert y.is_inference() and not y.requires_grad


def test_wrong_arguments_of_a_direct_function_raise():
    direct, x = _ext.module.direct, torch.randn(2, 3)
    for args in ((3, 1, 0.0), (None, 1, 0.0), (x, "relu", 0.0), (x, 1), (x, 99, 0.0)):
        with pytest.raises((TypeError, RuntimeError)):
            direct.activation(*args)
    with pytest.raises(RuntimeError, match="gaps"):
        direct.activation(torch.randn(4, 6)[:, ::2], 1, 0.0)
