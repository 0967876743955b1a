"""Every op, on every backend, in every dtype and layout, against the fp64 definition.  One table: tests/cases."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import cnnkernels
from cnnkernels import _op

from .cases import BAD, CASES, NOT_WRITTEN, TABLE
from .cases.table import Case

BACKENDS = ("reference", "cpu", "cuda", "triton")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)  # 22,000 skipped rows would take minutes


def name_of(value):
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None


def tensors(value) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [v for v in value if isinstance(v, Tensor)]


def oracle(case: Case, args):
    """The reference on the very same (rounded) inputs in fp64, on the CPU."""
    up = [
        a.detach().cpu().double()
        if isinstance(a, Tensor) and a.is_floating_point()
        else a.cpu()
        if isinstance(a, Tensor)
        else a
        for a in args
    ]
    return up, _op.REGISTRY[case.op].reference(*up)


def runnable(case: Case, backend: str, device: str, dtype: torch.dtype) -> str | None:
    """Why this combination is not one to run; None if it is."""
    if backend not in case.backends or (case.op, backend) in NOT_WRITTEN:
        return "the case names other backends"
    if dtype is torch.float64 and backend in ("cuda", "triton"):
        return "float64 is for cpu and reference"
    if (backend == "cpu" and device == "cuda") or (case.slow and backend == "triton" and device == "cpu"):
        return "not on this device"
    return None


@functools.cache
def most_layouts(op: str) -> Case:
    return max((c for c in CASES if c.op == op and not c.slow), key=lambda c: len(c.layouts))  # the first of equals


def layouts_of(case: Case, backend: str, device: str, dtype: torch.dtype) -> list[str]:
    """One dtype walks through all layouts, the others through the two that kernels tell apart.

    Triton's interpreter is slow: the kernels' branch on the layout is the same for all dtypes, and what makes other layouts
    dense, ahead of the kernels, shows in one case.
    """
    layouts = case.layouts
    if backend == "triton" and device == "cpu":
        if dtype is not torch.float32:
            layouts = ("nchw",)
        elif case is not most_layouts(case.op):
            layouts = ("nchw", "channels_last")
    elif dtype is not torch.float32:
        layouts = ("nchw", "channels_last")
    return [layout for layout in case.layouts if layout in layouts]


def combinations():
    for device in DEVICES:
        marks = pytest.mark.gpu if device == "cuda" else ()
        for case in CASES:
            for backend in BACKENDS:
                for dtype in DTYPES:
                    if runnable(case, backend, device, dtype):
                        continue
                    for layout in layouts_of(case, backend, device, dtype):
                        ident = f"{device}-{case.op}-{case.id}-{backend}-{name_of(dtype)}-{layout}"
                        yield pytest.param(device, case, backend, dtype, layout, id=ident, marks=marks)


def tolerance_of(case: Case, backend: str, device: str, dtype: torch.dtype, gradient: bool = False):
    table = TABLE[case.op].grad_tolerance if gradient else TABLE[case.op].tolerance
    rtol, atol = table[dtype]
    if backend == "triton" and device == "cpu" and dtype is torch.bfloat16:
        rtol, atol = 2 * rtol, 2 * atol  # Triton's interpreter truncates to bf16 where the compiled kernel rounds
    return rtol, atol


def assert_matches(got, want, tolerance, what=""):
    got, want = tensors(got), tensors(want)
    assert len(got) == len(want)
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        assert g.shape == w.shape
        if not g.is_floating_point():
            assert torch.equal(g.cpu(), w.cpu()), f"{what} output {i}"
            continue
        rtol, atol = tolerance
        torch.testing.assert_close(
            g.cpu().double(),
            w.double(),
            rtol=rtol,
            atol=atol,
            equal_nan=True,
            msg=lambda m, i=i: f"{what} output {i}: {m}",
        )


@functools.cache  # it takes longer than most kernels, and is the same for all backends
def promise(case: Case, dtype: torch.dtype, layout: str, device: str) -> list[tuple[Any, ...]]:
    """dtype, shape, strides and device of the outputs, by the op's fake kernel."""
    args = case.build(dtype, layout, device)
    with FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv()) as mode:
        fakes = [mode.from_tensor(a) if isinstance(a, Tensor) else a for a in args]
        out = tensors(getattr(torch.ops.cnnkernels, case.op)(*fakes))
    return [(o.dtype, o.shape, o.stride(), o.device.type) for o in out]


@pytest.mark.parametrize(("device", "case", "backend", "dtype", "layout"), list(combinations()), indirect=["backend"])
def test_forward(device, case, backend, dtype, layout, poison_empty):
    op = _op.REGISTRY[case.op]
    args = case.build(dtype, layout, device)
    before = copy.deepcopy(tensors(args))
    with cnnkernels.record_backends() as runs:
        out = op(*args)
    assert [r.backend for r in runs if r.op == case.op] == [backend], runs
    _, want = oracle(case, args)
    assert_matches(out, want, tolerance_of(case, backend, device, dtype))
    # same dtype, strides and layout as the fake kernel promises
    dynamic = torch.Tag.dynamic_output_shape in op.overload.tags
    for o, (dtype_, shape, stride, device_) in zip(tensors(out), promise(case, dtype, layout, device), strict=True):
        if dynamic:
            assert (o.dtype, o.dim(), o.device.type) == (dtype_, len(shape), device_)
            continue
        assert (o.dtype, o.shape, o.device.type) == (dtype_, shape, device_)
        if o.numel():
            assert o.stride() == stride
    # nothing of the caller's has changed, and the outputs are new memory
    for a, b in zip(tensors(args), before, strict=True):
        assert torch.equal(a, b) or a.isnan().any()
    owned = {a.untyped_storage().data_ptr() for a in tensors(args) if a.numel()}
    assert all(o.untyped_storage().data_ptr() not in owned for o in tensors(out) if o.numel())


@pytest.mark.parametrize(
    ("case", "dtype", "layout"),
    [
        pytest.param(*(c.values[i] for i in (1, 3, 4)), id=c.id)
        for c in combinations()
        if c.values[:3:2] == ("cpu", "cpu")
    ],
)
def test_plain_call(case, dtype, layout, poison_empty):
    """As users call it, unrecorded and past the dispatcher (csrc/torch/direct.h): the same bits as the long way."""
    op, args = _op.REGISTRY[case.op], case.build(dtype, layout)
    with cnnkernels.use_backend("cpu"):
        want = tensors(op(*args)) + [g for g in _input_gradients(op, case, args, dtype) if g is not None]
    got = tensors(op(*args)) + [g for g in _input_gradients(op, case, args, dtype) if g is not None]
    for g, w in zip(got, want, strict=True):
        assert (g.dtype, g.shape, g.stride()) == (w.dtype, w.shape, w.stride())
        torch.testing.assert_close(g, w, rtol=0, atol=0, equal_nan=True)


def _input_gradients(op, case: Case, args, dtype: torch.dtype):
    return gradients(op, args, dtype)[1] if differentiable(case) else ()


def differentiable(case: Case) -> bool:
    return TABLE[case.op].grad_tolerance is not None


def leaves(args):
    return [
        a.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        if isinstance(a, Tensor) and a.is_floating_point()
        else a
        for a in args
    ]


def gradients(function, args, dtype, seed=7):
    """Gradients of a fixed random functional of the outputs, its weights rounded to dtype, towards every float tensor."""
    args = leaves(args)
    outputs = [o for o in tensors(function(*args)) if o.is_floating_point() and o.requires_grad]
    g = torch.Generator().manual_seed(seed)
    weights = [
        torch.randn(o.shape, generator=g, dtype=torch.float64).to(dtype).to(device=o.device, dtype=o.dtype)
        for o in outputs
    ]
    inputs = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
    return weights, torch.autograd.grad(outputs, inputs, weights, allow_unused=True)


@pytest.mark.parametrize(
    ("device", "case", "backend", "dtype", "layout"),
    [c for c in combinations() if differentiable(c.values[1]) and c.values[4] in ("nchw", "channels_last", "sliced")],
    indirect=["backend"],
)
def test_gradient(device, case, backend, dtype, layout, poison_empty):
    op = _op.REGISTRY[case.op]
    args = case.build(dtype, layout, device)
    with cnnkernels.record_backends() as runs:
        _, got = gradients(op, args, dtype)
    assert {r.backend for r in runs} == {backend} and not any(r.reason for r in runs), runs
    up, _ = oracle(case, args)
    _, want = gradients(op.reference, up, dtype)
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        assert (g is None) == (w is None)
        if g is not None:
            assert_matches(g, w, tolerance_of(case, backend, device, dtype, gradient=True), f"gradient {i}")


SMALL = [c for c in CASES if not c.slow]


@pytest.mark.parametrize(
    "case", [c for c in SMALL if differentiable(c) and "reference" in c.backends], ids=lambda c: f"{c.op}-{c.id}"
)
def test_gradcheck(case):
    if TABLE[case.op].no_gradcheck:
        pytest.skip(TABLE[case.op].no_gradcheck)
    args = leaves(case.build(torch.float64))
    if sum(a.numel() for a in args if isinstance(a, Tensor)) > 3000:
        args = None
    if args is None or not any(isinstance(a, Tensor) and a.numel() for a in args):
        pytest.skip("too large for finite differences, or empty: test_gradient covers it")
    with cnnkernels.record_backends() as runs:
        assert torch.autograd.gradcheck(_op.REGISTRY[case.op], args, fast_mode=True)
    assert runs and all(r.backend == "cpu" for r in runs)


@pytest.mark.parametrize(
    ("case", "layout"),
    [
        pytest.param(c, layout, id=f"{c.op}-{c.id}-{layout}")
        for c in SMALL
        for layout in c.layouts
        if layout in ("nchw", "channels_last") or (layout in ("permuted", "sliced") and c is most_layouts(c.op))
    ],
)
def test_opcheck(case, layout):
    args = case.build(torch.float32, layout)
    if differentiable(case):
        args = [
            a.requires_grad_()
            if isinstance(a, Tensor) and a.is_floating_point() and a.is_leaf and layout == "nchw"
            else a
            for a in args
        ]
    utils = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    if torch.__version__ < "2.12" and case.op.startswith("dwconv") and case.op.endswith("_backward"):
        # aten::_convolution_double_backward asks symbolic tensors for numel() there (seen in 2.11.0, not in 2.13.0)
        utils = utils[:-1]
    torch.library.opcheck(_op.REGISTRY[case.op].overload, tuple(args), test_utils=utils)


@pytest.mark.parametrize("bad", BAD, ids=lambda b: f"{b.op}-{b.id}")
@pytest.mark.parametrize("door", ["public", "torch.ops", "fake"])
def test_bad_input(bad, door):
    args = bad.args()
    if door == "public" and bad.public is None:
        pytest.skip("has no public function of these arguments")
    before = copy.deepcopy(tensors(args))
    function = bad.public if door == "public" else getattr(torch.ops.cnnkernels, bad.op)
    with cnnkernels.record_backends() as runs, pytest.raises(bad.error, match=bad.match) as caught:
        if door == "fake":
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                function(
                    *[mode.from_tensor(a) if isinstance(a, Tensor) and a.layout is torch.strided else a for a in args]
                )
        else:
            function(*args)
    assert not runs
    assert str(caught.value).startswith(bad.op.removesuffix("_backward") if door == "public" else "")
    if door != "fake":  # and as users call it: unrecorded, so that the native kernel's own checks come first
        with pytest.raises(bad.error, match=bad.match):
            function(*args)
    for a, b in zip(tensors(args), before, strict=True):
        assert a.layout is not torch.strided or torch.equal(a, b) or a.isnan().any()


@pytest.mark.gpu
def test_table_has_rows_for_the_gpu():
    assert any(c.values[0] == "cuda" for c in combinations())


def test_table_is_complete():
    assert set(TABLE) == set(_op.REGISTRY)


def test_list_of_unwritten_backends_is_true():
    from cnnkernels import _ext

    if not _ext.module.build_info()["cuda"]:
        pytest.skip("built without CUDA: the CUDA kernels cannot be counted")
    without_triton = {(n, "triton") for n, op in _op.REGISTRY.items() if op.triton is None}
    without_cuda = {
        (n, "cuda") for n, op in _op.REGISTRY.items() if not all(_ext.has_kernel(k, "cuda") for k in op.native_ops)
    }
    assert without_triton | without_cuda == NOT_WRITTEN


@pytest.mark.parametrize("name", sorted(_op.REGISTRY))
def test_native_kernels_for_both_devices(name):
    """A build with nvcc carries a CPU and, where it is written, a CUDA kernel for every native op, GPU or not."""
    from cnnkernels import _ext

    assert _ext.module is not None, _ext.error
    cuda = bool(_ext.module.build_info()["cuda"]) and (name, "cuda") not in NOT_WRITTEN
    for native in _op.REGISTRY[name].native_ops:
        assert _ext.has_kernel(native, "cpu")
        assert _ext.has_kernel(native, "cuda") == cuda
