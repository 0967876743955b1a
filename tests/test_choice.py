"""Measured choices: what is looked up, what is measured, and which backend then runs."""

from __future__ import annotations

import json
import threading

import pytest
import torch

import cnnkernels
from benchmarks import choices
from cnnkernels import _backend, _ext, _op, ops
from cnnkernels.choice import key, measure, store
from cnnkernels.choice.table import Table, render

from . import build_tree
from .cases import CASES
from .test_contract import assert_matches, oracle, tolerance_of

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(_ext.module is None, reason="needs a backend to choose from")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder in use, without the shipped tables."""
    monkeypatch.setenv("CNNKERNELS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "shipped_tables", list)
    _forget()
    yield tmp_path / "cache"
    monkeypatch.undo()
    _forget()


def _forget():
    store.forget()
    for op in _op.REGISTRY.values():
        op.forget_choices()


@pytest.fixture
def fastest(monkeypatch):
    """Called with a backend's name: that one is measured to be the fastest.  The list: what was measured."""
    asked = []

    def choose(backend):
        def seconds(calls, device):
            asked.append((sorted(calls), device.type))
            return {name: 1.0 if name == backend else 2.0 for name in calls}

        monkeypatch.setattr(measure, "seconds", seconds)
        return asked

    return choose


def backends(call):
    with cnnkernels.record_backends() as runs:
        call()
    return [(r.op, r.backend, r.chosen, r.reason) for r in runs]


# ---- what runs -------------------------------------------------------------------------------------------------------


def test_a_choice_runs_and_is_recorded_as_a_choice(cache, fastest):
    x, other = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 5)
    asked = fastest("reference")
    (found,) = cnnkernels.tune(ops.mish, x)
    assert asked == [(["cpu", "reference"], "cpu")]
    assert (found.op, found.key, found.backend) == ("activation", "float32[2,3,4,4]nchw mish", "reference")
    assert found.seconds == {"cpu": 2.0, "reference": 1.0}
    before = dict(_backend.fallbacks)
    assert backends(lambda: ops.mish(x)) == [("activation", "reference", True, None)]
    assert backends(lambda: ops.mish(other)) == [("activation", "cpu", False, None)]
    assert backends(lambda: torch.ops.cnnkernels.activation(x, "mish")) == [("activation", "reference", True, None)]
    assert _backend.fallbacks == before
    assert len(asked) == 1  # measured while tuning only


def test_plain_calls_take_the_choice(cache, fastest, monkeypatch):
    """Where nobody records, a call goes straight to the kernel unless PyTorch's form was chosen."""
    fastest("reference")
    x = torch.randn(2, 3, 4, 4)
    cnnkernels.tune(ops.mish, x)
    ran = []
    op = _op.REGISTRY["activation"]
    monkeypatch.setattr(op, "eager", lambda x, act: ran.append(act) or torch.zeros_like(x))
    assert not ops.mish(x).any() and ran == ["mish"]
    assert ops.mish(x.clone()[:1]).any() and ops.activation(x, "relu").any() and ran == ["mish"]
    parameter = x.clone().requires_grad_()
    assert not ops.mish(parameter).any() and len(ran) == 2


def test_gradients_of_a_chosen_form(cache, fastest):
    """Forward and backward are two ops, measured one by one; together they give the same gradients."""
    fastest("reference")
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64, requires_grad=True)
    weight, scale = torch.randn(6, 1, 3, 3).double(), torch.rand(6).double()
    found = cnnkernels.tune(lambda: ops.dwconv_bn_act(x, weight, scale, scale, act="silu").sum().backward())
    assert [m.op for m in found] == ["dwconv_bn_act", "dwconv_bn_act_backward"]
    want, x.grad = x.grad, None
    calls = backends(lambda: ops.dwconv_bn_act(x, weight, scale, scale, act="silu").sum().backward())
    assert [c[:3] for c in calls] == [(m.op, "reference", True) for m in found]
    torch.testing.assert_close(x.grad, want)
    with cnnkernels.use_backend("cpu"):
        torch.testing.assert_close(
            torch.autograd.grad(ops.dwconv_bn_act(x, weight, scale, scale, act="silu").sum(), x)[0], want
        )


def test_whoever_asks_for_a_backend_gets_it(cache, fastest):
    asked = fastest("reference")
    x = torch.randn(2, 3, 4, 4)
    with cnnkernels.use_backend("cpu"):
        assert cnnkernels.tune(ops.mish, x) == []
    assert asked == []
    cnnkernels.tune(ops.mish, x)
    for name in ("cpu", "reference"):
        with cnnkernels.use_backend(name):
            assert backends(lambda: ops.mish(x)) == [("activation", name, False, None)]


def test_nothing_stands_in_the_way_of_an_op_without_choices(cache, fastest):
    """What the default wins is kept, so that it is not measured again, and costs later calls nothing."""
    asked = fastest("cpu")
    x = torch.randn(2, 3, 4, 4)
    cnnkernels.tune(ops.mish, x)
    assert cnnkernels.tune(ops.mish, x) == [] and len(asked) == 1
    op = _op.REGISTRY["activation"]
    ops.mish(x)
    assert op._cpu_ready and op._cpu_chooser is None


def test_bad_arguments_raise_as_ever(cache, fastest):
    fastest("reference")
    cnnkernels.tune(ops.mish, torch.randn(2))
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor, got list"):
        ops.mish([1.0])
    with pytest.raises(TypeError, match="name of an activation"):
        ops.activation(torch.randn(2), {})
    with cnnkernels.tuning(), pytest.raises(ValueError, match="leaky_relu takes one finite slope"):
        ops.activation(torch.randn(2), "leaky_relu(x)")


def test_a_chosen_backend_that_is_gone_is_not_missed(cache, monkeypatch):
    """A table of a machine with Triton, read on one without."""
    x = torch.randn(2, 3, 4, 4)
    store.known(CPU).choices["activation"] = {key.text((x, "mish")): "triton"}
    assert backends(lambda: ops.mish(x)) == [("activation", "cpu", False, None)]


def test_tuning_in_threads(cache, fastest):
    fastest("reference")
    x = torch.randn(2, 3, 4, 4)
    want, wrong = torch.nn.functional.mish(x), []

    def work():
        for _ in range(50):
            if not torch.allclose(ops.mish(x), want, atol=1e-6):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    with cnnkernels.tuning():
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert not wrong


def test_explain_names_the_choices(cache, fastest):
    fastest("reference")
    for size in (4, 5):
        cnnkernels.tune(ops.mish, torch.randn(2, 3, size, size))
    fastest("cpu")
    cnnkernels.tune(ops.mish, torch.randn(2, 3, 6, 6))
    told = cnnkernels.explain()
    assert told.choices == {("activation", "cpu", "reference"): 2}
    assert "activation on cpu tensors: reference for 2 shapes" in str(told)


# ---- measuring -------------------------------------------------------------------------------------------------------


def test_the_fastest_is_measured(cache):
    """No stub: a kernel that is made slow loses, and the default wins unless another one is clearly faster."""
    op = _op.REGISTRY["channel_shuffle"]
    x = torch.randn(1, 4, 3, 3)
    (found,) = cnnkernels.tune(ops.channel_shuffle, x, 2)
    assert set(found.seconds) == {"cpu", "reference"} and all(t > 0 for t in found.seconds.values())
    direct, native = op.direct, op.native

    def slow(*args):
        for _ in range(40):
            native(*args)
        return native(*args)

    op.direct, op.native = None, slow
    try:
        (found,) = cnnkernels.tune(ops.channel_shuffle, x.repeat(2, 1, 1, 1), 2)
    finally:
        op.direct, op.native = direct, native
    assert found.backend == "reference"


def test_winner():
    assert measure.winner({}, "cuda") == "cuda"
    assert measure.winner({"cuda": 1.0, "triton": 0.97}, "cuda") == "cuda"
    assert measure.winner({"cuda": 1.0, "triton": 0.94, "reference": 0.95}, "cuda") == "triton"
    assert measure.winner({"triton": 2.0, "reference": 1.0}, "cuda") == "reference"


def test_candidates_that_fail_or_are_hopeless_are_left_out():
    def fails():
        raise RuntimeError("no memory")

    def hopeless():
        calls.append(1)
        torch.randn(200_000)

    calls = []
    times = measure.seconds({"cuda": lambda: None, "triton": fails, "reference": hopeless}, CPU)
    assert set(times) == {"cuda"} and len(calls) == 4
    assert measure.seconds({"cuda": fails}, CPU) == {}


def test_nothing_is_measured_in_a_graph_capture(cache, fastest, monkeypatch):
    asked = fastest("reference")
    monkeypatch.setattr(measure, "possible", lambda device: False)
    x = torch.randn(2, 3, 4, 4)
    with cnnkernels.tuning() as found:
        assert backends(lambda: ops.mish(x)) == [("activation", "cpu", False, None)]
        monkeypatch.setattr(measure, "possible", lambda device: True)
        assert backends(lambda: ops.mish(x)) == [("activation", "reference", True, None)]  # it was not taken as settled
    assert len(asked) == len(found) == 1


def test_a_capture_is_noticed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert not measure.possible(torch.device("cuda", 0)) and measure.possible(CPU)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert measure.possible(torch.device("cuda", 0))


@pytest.mark.gpu
def test_graph_capture_on_a_gpu(cache):
    x = torch.randn(2, 3, 4, 4, device="cuda")
    ops.mish(x)
    with cnnkernels.tuning() as found:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = ops.mish(x)
        assert found == []
        ops.mish(x)
        assert len(found) == 1 and found[0].seconds
    graph.replay()
    torch.testing.assert_close(y, torch.nn.functional.mish(x))


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_keys():
    x = torch.empty(2, 3, 4, 5, dtype=torch.float16)
    last = x.contiguous(memory_format=torch.channels_last)
    w = torch.empty(3, 1, 3, 3)
    assert key.text((x, w, None, "relu6", True, 2)) == "float16[2,3,4,5]nchw float32[3,1,3,3]nchw - relu6 True 2"
    assert key.text((last, w[:, 0, 0])) == "float16[2,3,4,5]nhwc float32[3,3]"
    same = {key.text((x, s)) for s in ([2], (2,), [2, 2], (2, 2, 2, 2), 2)}
    assert same == {"float16[2,3,4,5]nchw 2"}
    assert key.text((x, [1, 2], 1e-5)) == key.text((x, (1, 2), 0.3)) == "float16[2,3,4,5]nchw (1,2)"
    assert key.text(([x, last], 1)) == "(float16[2,3,4,5]nchw,float16[2,3,4,5]nhwc) 1"
    assert key.text(([x, x],)) == "(float16[2,3,4,5]nchw,float16[2,3,4,5]nchw)"  # how many there are matters
    assert key.text((x, [])) == "float16[2,3,4,5]nchw ()"
    apart = [(x,), (last,), (x.float(),), (x[:1],), (x, 1), (x, None), (x, "relu"), ([x],)]
    assert len({key.quick(a) for a in apart}) == len({key.text(a) for a in apart}) == len(apart)
    assert hash(key.quick((x, [1, 2], (3, 4)))) == hash(key.quick((x, [1, 2], (3, 4))))


def test_memory_of_answers_is_bounded(cache, fastest, monkeypatch):
    monkeypatch.setattr("cnnkernels.choice.chooser._MAX_ANSWERS", 8)
    fastest("reference")
    cnnkernels.tune(ops.mish, torch.randn(1))
    for n in range(1, 40):
        ops.mish(torch.randn(n))
    assert 0 < len(_op.REGISTRY["activation"]._cpu_chooser._answers) <= 8


# ---- PyTorch's own forms ---------------------------------------------------------------------------------------------

WITH_EAGER = sorted(name for name, op in _op.REGISTRY.items() if op.eager is not op.reference)


def test_which_ops_have_a_form_of_their_own():
    assert WITH_EAGER == [
        "activation",
        "activation_backward",
        "bn_act",
        "channel_shuffle",
        "dwconv_bn_act",
        "upsample_add",
        "weighted_fusion",
    ]


def eager_rows():
    for case in CASES:
        if case.op in WITH_EAGER:
            for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
                for layout in case.layouts:
                    yield pytest.param(case, dtype, layout, id=f"{case.op}-{case.id}-{str(dtype)[6:]}-{layout}")


@pytest.mark.parametrize(("case", "dtype", "layout"), list(eager_rows()))
def test_eager_forms_keep_the_contract(case, dtype, layout, poison_empty):
    """Values within the tolerance of the kernels, the strides of the op, memory of its own."""
    op, args = _op.REGISTRY[case.op], case.build(dtype, layout)
    out = op.eager(*args)
    assert_matches(out, oracle(case, args)[1], tolerance_of(case, "cpu", "cpu", dtype))
    with cnnkernels.use_backend("reference"):
        want = op(*args)
    assert out.dtype is want.dtype
    assert out.numel() == 0 or out.stride() == want.stride()
    assert out.numel() == 0 or out.data_ptr() not in {a.data_ptr() for a in args if isinstance(a, torch.Tensor)}


# ---- shipped tables --------------------------------------------------------------------------------------------------


def test_shipped_tables_are_whole():
    paths = store.shipped_tables()
    assert {p.name for p in paths} == {"cpu-avx2.json", "cpu-avx512.json", "nvidia-h200.json"}
    for path in paths:
        table = store.shipped_table(json.loads(path.read_bytes())["device"])
        assert table is not None and table.source
        assert set(table.choices) <= set(_op.REGISTRY)


def test_the_table_of_the_h200_is_what_its_results_show():
    results = build_tree.ROOT / "benchmarks" / "results" / "gpu-nvidia-h200-2026-11-26"
    table = choices.derived(results, without=("dwconv_bn_act",))  # which has got other kernels since
    assert choices.derived(results).choices.keys() - table.choices.keys() == {"dwconv_bn_act"}
    assert render(table) == (choices.FOLDER / "nvidia-h200.json").read_bytes()
    faster = table.choices["bn_act"]
    # 72.2 us in CUDA, 58.5 in Triton; 22.9 and 25.3; 14.1 and 6.3, too short to tell
    assert faster["float16[32,64,152,152]nhwc float32[64] float32[64] mish -"] == "triton"
    assert "float16[32,256,38,38]nhwc float32[256] float32[256] mish -" not in faster
    assert "float16[1,64,152,152]nhwc float32[64] float32[64] mish -" not in faster


def test_a_shipped_choice_is_taken_and_the_users_own_goes_before_it(cache, fastest, monkeypatch):
    x = torch.randn(2, 3, 4, 4)
    shipped = Table("", "0", "0", "", {"activation": {key.text((x, "mish")): "reference"}})
    monkeypatch.setattr(
        store, "shipped_table", lambda kind: shipped if kind == f"cpu {_ext.module.cpu_isa()}" else None
    )
    _forget()
    assert backends(lambda: ops.mish(x)) == [("activation", "reference", True, None)]
    own = store.known(CPU)
    own.learn("activation", key.text((x, "mish")), "cpu")
    own.save()
    _forget()
    assert store.known(CPU).shipped == 1
    assert backends(lambda: ops.mish(x)) == [("activation", "cpu", False, None)]
    monkeypatch.setenv("CNNKERNELS_CACHE", "off")
    _forget()
    assert store.known(CPU).choices == {}
