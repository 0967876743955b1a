"""Every op in ONNX operators, in onnxruntime: the rows of the contract table, all of an op in one model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cnnkernels import _op, ops
from cnnkernels.export.onnx_model import onnx_model, onnx_translations

from .cases import CASES, TABLE
from .test_contract import assert_matches, oracle, tensors

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
pytest.importorskip("onnxscript", reason="pip install onnx onnxscript")

TRANSLATED = sorted(overload.name().partition("::")[2] for overload in onnx_translations())
DOUBLES = ("box_iou_loss", "detection_candidates", "nms")  # onnxruntime has no convolution of doubles
HALVES = ("bn_act", "detection_candidates", "dwconv_bn_act", "nms", "squeeze_excite", "weighted_fusion")
ROWS = [
    *((name, torch.float32) for name in TRANSLATED),
    *((name, torch.float64) for name in DOUBLES),
    *((name, torch.float16) for name in HALVES),
]


class Calls(nn.Module):
    """An op with each of these argument lists; the tensors in them are the module's arguments."""

    def __init__(self, op, calls):
        super().__init__()
        self.op, self.calls = op, calls

    def forward(self, *given):
        rest = iter(given)
        filled = [[next(rest) if isinstance(a, Tensor) else a for a in args] for args in self.calls]
        return tuple(t for args in filled for t in tensors(self.op(*args)))


def in_onnxruntime(module, given, **kw):
    names = [f"given_{i}" for i in range(len(given))]
    content = onnx_model(module, given, inputs=names, **kw).SerializeToString()
    loaded = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    feed = {n: t.contiguous().numpy() for n, t in zip(names, given, strict=True)}
    used = {i.name for i in loaded.get_inputs()}  # what the outputs do not depend on is no input
    return [torch.from_numpy(y) for y in loaded.run(None, {n: feed[n] for n in used})]


def test_which_are_translated():
    """What training alone runs is not."""
    others = [n for n in _op.REGISTRY if n not in TRANSLATED]
    assert others
    assert all(n.endswith(("_backward", "_train")) for n in others)


@pytest.mark.parametrize(("name", "dtype"), ROWS, ids=lambda v: str(v).removeprefix("torch."))
def test_contract(name, dtype):
    cases = [c for c in CASES if c.op == name]
    calls = [c.build(dtype) for c in cases]
    got = iter(in_onnxruntime(Calls(_op.REGISTRY[name], calls).eval(), [t for args in calls for t in tensors(args)]))
    for case, args in zip(cases, calls, strict=True):
        want = tensors(oracle(case, args)[1])
        mine = [next(got) for _ in want]
        assert [g.dtype for g in mine] == [t.dtype for t in tensors(_op.REGISTRY[name](*args))]
        assert_matches(mine, want, TABLE[name].tolerance[dtype], case.id)
    assert next(got, None) is None


class Unlucky(nn.Module):
    def forward(self, boxes, scores):
        return ops.nms_padded(boxes, scores, 0.4, kind="ciou", max_out=5)


def test_names_of_inputs_and_outputs_are_the_users():
    """Also where a function that is written inline has values of those names."""
    onnx = pytest.importorskip("onnx")
    example = torch.rand(2, 9, 4), torch.rand(2, 9)
    for inputs, outputs in ((("left", "kept"), ("indices", "step")), (("iou", "box"), ("overlap", "about"))):
        made = onnx_model(Unlucky().eval(), example, inputs=inputs, outputs=outputs)
        onnx.checker.check_model(made, full_check=True)
        assert tuple(i.name for i in made.graph.input) == inputs
        assert tuple(o.name for o in made.graph.output) == outputs
        assert [o.domain for o in made.opset_import] == [""] and not made.functions
