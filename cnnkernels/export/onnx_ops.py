"""Each op of the package in standard ONNX operators: what torch.onnx calls for a node ``torch.ops.cnnkernels.<op>``.

A function takes an op's arguments as its schema has them, tensors as values of the ONNX graph.  Half types are computed
in float32 and rounded once, as everywhere.  BatchNorm's scale goes into the weights of a convolution: both are constants,
which a runtime multiplies once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from cnnkernels import _activation, _boxes, _conv
from cnnkernels.export._onnxscript import TensorProto, call, make_tensor
from cnnkernels.export._onnxscript import opset18 as op
from cnnkernels.export.onnx_boxes import OVERLAPS, variant
from cnnkernels.export.onnx_nms import nms_function

FLOAT, INT64, DOUBLE = TensorProto.FLOAT, TensorProto.INT64, TensorProto.DOUBLE


def _ints(*values: int) -> Any:
    return op.Constant(value_ints=list(values))


def _is_double(x: Any) -> bool:
    return int(x.dtype) == DOUBLE


def _wide(x: Any) -> Any:
    """In the dtype of the arithmetic: float32, or float64 as it is."""
    return x if int(x.dtype) in (FLOAT, DOUBLE) else op.Cast(x, to=FLOAT)


def _as(x: Any, like: Any) -> Any:
    """The result for an input ``like``, from one for ``_wide(like)``."""
    return x if int(like.dtype) in (FLOAT, DOUBLE) else op.CastLike(x, like)


def _double(value: float) -> Any:
    return op.Constant(value=make_tensor("value", DOUBLE, [], [value]))


def _number(value: float, like: Any) -> Any:
    return op.CastLike(_double(value), like)


# ---- activations -----------------------------------------------------------------------------------------------------


def _act(x: Any, name: str, like: Any) -> Any:
    """x: ``_wide``, computed from the input ``like``."""
    kind, slope = name.partition("(")[0], _activation.parse(name)[1]
    if kind == "identity":
        return x
    if kind == "leaky_relu":
        return op.LeakyRelu(x, alpha=slope)
    if kind in ("hard_swish", "hard_sigmoid"):
        if not _is_double(like):
            return op.HardSwish(x) if kind == "hard_swish" else op.HardSigmoid(x, alpha=1 / 6, beta=0.5)
        # Those have float32 numbers in them.
        gate = op.Div(_clipped(op.Add(x, _number(3.0, x)), 6.0), _number(6.0, x))
        return op.Mul(x, gate) if kind == "hard_swish" else gate
    return _ACTIVATIONS[kind](x)


def _clipped(x: Any, most: float) -> Any:
    return op.Clip(x, _number(0.0, x), _number(most, x))


_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": lambda x: op.Relu(x),
    "relu6": lambda x: _clipped(x, 6.0),
    "silu": lambda x: op.Mul(x, op.Sigmoid(x)),
    "mish": lambda x: op.Mish(x),
    "sigmoid": lambda x: op.Sigmoid(x),
}


def activation(x: Any, act: str) -> Any:
    return _as(_act(_wide(x), act, x), x)


# ---- convolutions and normalisation ----------------------------------------------------------------------------------


def _per_channel(vector: Any, rank: int) -> Any:
    """[C] against [N, C, ...]."""
    return op.Reshape(vector, _ints(-1, *[1] * (rank - 2)))


def _finished(y: Any, act: str, residual: Any, like: Any) -> Any:
    y = _act(y, act, like)
    return _as(y if residual is None else op.Add(y, _wide(residual)), like)


def bn_act(x: Any, scale: Any, shift: Any, act: str, residual: Any = None) -> Any:
    rank, wide = len(x.shape), _wide(x)
    scale, shift = (_per_channel(op.CastLike(v, wide), rank) for v in (scale, shift))
    return _finished(op.Add(op.Mul(wide, scale), shift), act, residual, x)


def _shape_of(weight: Any) -> torch.Tensor:
    """A tensor of a parameter's shape, for questions in terms of tensors."""
    return torch.empty(list(weight.shape), device="meta")


def _convolution(x: Any, weight: Any, scale: Any, shift: Any, **window: Any) -> Any:
    """Of ``_wide`` x."""
    weight, scale, shift = (op.CastLike(t, x) for t in (weight, scale, shift))
    return op.Conv(x, op.Mul(weight, op.Reshape(scale, _ints(-1, 1, 1, 1))), shift, **window)


def dwconv_bn_act(
    x: Any,
    weight: Any,
    scale: Any,
    shift: Any,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] | None = None,
    dilation: Sequence[int] = (1,),
    act: str = "relu6",
    residual: Any = None,
) -> Any:
    sv, sh, left, right, top, bottom, dv, dh = _conv.native(_shape_of(weight), stride, padding, dilation)
    y = _convolution(
        _wide(x),
        weight,
        scale,
        shift,
        group=weight.shape[0],
        strides=(sv, sh),
        pads=(top, left, bottom, right),
        dilations=(dv, dh),
    )
    return _finished(y, act, residual, x)


def pointwise_conv_bn_act(
    x: Any, weight: Any, scale: Any, shift: Any, act: str, gate: Any = None, residual: Any = None
) -> Any:
    wide = _wide(x)
    if gate is not None:
        wide = op.Mul(wide, op.Unsqueeze(op.CastLike(gate, wide), _ints(2, 3)))
    return _finished(_convolution(wide, weight, scale, shift), act, residual, x)


def squeeze_excite(x: Any, w1: Any, b1: Any, w2: Any, b2: Any, act: str, gate: str) -> Any:
    wide = _wide(x)

    def linear(v: Any, weight: Any, bias: Any) -> Any:
        return op.Gemm(v, op.Flatten(op.CastLike(weight, v)), None if bias is None else op.CastLike(bias, v), transB=1)

    hidden = _act(linear(op.Flatten(op.GlobalAveragePool(wide)), w1, b1), act, x)
    return _as(op.Mul(wide, op.Unsqueeze(_act(linear(hidden, w2, b2), gate, x), _ints(2, 3))), x)


# ---- channels and pixels in another order ----------------------------------------------------------------------------


def _shuffled(x: Any, channels: int, groups: int) -> Any:
    size = op.Concat(op.Shape(x, start=0, end=1), _ints(groups, channels // groups), op.Shape(x, start=2), axis=0)
    return op.Reshape(op.Transpose(op.Reshape(x, size), perm=(0, 2, 1, 3, 4)), op.Shape(x))


def channel_shuffle(x: Any, groups: int) -> Any:
    return _shuffled(x, x.shape[1], groups)


def concat_shuffle_split(a: Any, b: Any, groups: int = 2) -> Any:
    return op.Split(_shuffled(op.Concat(a, b, axis=1), a.shape[1] + b.shape[1], groups), num_outputs=2, axis=1)


def focus(x: Any) -> Any:
    """Pixels (0, 0), (1, 0), (0, 1), (1, 1) of every square of four: (row, column)."""

    def quarter(row: int, column: int) -> Any:
        end = 2**31 - 1
        return op.Slice(x, _ints(row, column), _ints(end, end), _ints(2, 3), _ints(2, 2))

    return op.Concat(quarter(0, 0), quarter(1, 0), quarter(0, 1), quarter(1, 1), axis=1)


def spp(x: Any, kernel_sizes: Sequence[int] = (5, 9, 13)) -> Any:
    wide = _wide(x)
    pooled = [op.MaxPool(wide, kernel_shape=(k, k), pads=[k // 2] * 4, strides=(1, 1))[0] for k in kernel_sizes]
    return _as(op.Concat(wide, *pooled, axis=1), x)


def upsample_add(x: Any, y: Any) -> Any:
    sizes = op.Concat(op.Shape(x, start=0, end=2), op.Shape(y, start=2), axis=0)
    large = op.Resize(
        _wide(x), None, None, sizes, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    return _as(op.Add(large, _wide(y)), x)


def weighted_fusion(x0: Any, x1: Any, x2: Any, x3: Any, weights: Any, eps: float, act: str) -> Any:
    maps = [_wide(x) for x in (x0, x1, x2, x3) if x is not None]
    positive = op.Relu(op.CastLike(weights, maps[0]))
    total = op.Add(op.ReduceSum(positive, keepdims=0), _number(eps, maps[0]))
    shares = op.Div(positive, total)
    terms = [op.Mul(x, op.Gather(shares, op.Constant(value_int=i))) for i, x in enumerate(maps)]
    y = terms[0]
    for term in terms[1:]:
        y = op.Add(y, term)
    return _as(_act(y, act, x0), x0)


# ---- boxes -----------------------------------------------------------------------------------------------------------


def box_iou_loss(pred: Any, target: Any, kind: str, reduction: str) -> Any:
    a, b = _wide(pred), _wide(target)
    zero, one = _number(0.0, a), _number(1.0, a)
    # 1, or NaN where a coordinate is NaN or infinite.
    sound = op.Add(one, op.ReduceSum(op.Add(op.Mul(zero, a), op.Mul(zero, b)), _ints(1), keepdims=0))
    column = op.Unsqueeze(sound, _ints(1))
    overlap = call(OVERLAPS[variant(kind, 1.0)], op.Mul(a, column), op.Mul(b, column), _double(1.0))
    loss = op.Mul(op.Sub(one, overlap), sound)
    if reduction == "none":
        return loss
    total = op.ReduceSum(loss, keepdims=0)
    if reduction == "sum":
        return total
    return op.Div(total, op.CastLike(op.Max(op.Size(loss), op.Constant(value_int=1)), total))


def _threshold(threshold: float, boxes: Any) -> Any:
    double = _is_double(boxes)
    rounded = _boxes.rounded_threshold(threshold, torch.float64 if double else torch.float32)
    return op.Cast(_double(rounded), to=DOUBLE if double else FLOAT)


def detection_candidates(predictions: Any, score_threshold: float, max_candidates: int, multi_label: bool) -> Any:
    p = _wide(predictions)
    number_of_classes = predictions.shape[2] - 5
    threshold = _threshold(score_threshold, predictions)
    columns = ((0, 2), (2, 4), (4, 5), (5, 5 + number_of_classes))
    centre, size, objectness, classes = (op.Slice(p, _ints(a), _ints(b), _ints(2)) for a, b in columns)
    half = op.Div(size, _number(2.0, p))
    boxes = op.Concat(op.Sub(centre, half), op.Add(centre, half), axis=2)
    per_row = number_of_classes if multi_label else 1
    if not multi_label:
        labels = op.ArgMax(classes, axis=2, keepdims=0, select_last_index=0)
        # NaN if one of them is, which runtimes' maxima may pass over.
        objectness = op.Add(objectness, op.Mul(op.ReduceSum(classes, _ints(2), keepdims=1), _number(0.0, p)))
        classes = op.ReduceMax(classes, _ints(2), keepdims=1)
    products = op.Mul(objectness, classes)  # [N, A, per_row]
    passes = op.And(op.Greater(products, threshold), op.Greater(objectness, threshold))
    none = _number(-1.0, p)
    flat = op.Mul(op.Shape(p, start=0, end=2), _ints(1, per_row))
    scores = op.Reshape(op.Where(passes, products, none), flat)
    # Room for what is not there: the highest are then always as many as asked for.
    scores = op.Pad(scores, _ints(0, 0, 0, max_candidates), none)
    last = op.Sub(op.Shape(scores, start=1), _ints(1))
    values, order = op.TopK(scores, _ints(max_candidates), axis=1)  # of equal ones the first
    nowhere = op.Add(last, _ints(1))
    order = op.Where(op.Less(values, _number(0.0, p)), nowhere, order)
    order = op.TopK(order, _ints(max_candidates), axis=1, largest=0)[0]  # in the order of the rows
    valid = op.Less(order, nowhere)
    order = op.Min(order, last)
    scores = op.Where(valid, op.GatherElements(scores, order, axis=1), none)
    row = op.Div(order, op.Constant(value_int=per_row))
    padding = _ints(0, 0, 0, 0, max_candidates, 0)
    found = op.GatherND(op.Pad(boxes, padding, _number(0.0, p)), op.Unsqueeze(row, _ints(2)), batch_dims=1)
    found = op.Where(op.Unsqueeze(valid, _ints(2)), found, _number(0.0, p))
    if multi_label:
        labels = op.Mod(order, op.Constant(value_int=per_row))
    else:
        labels = op.GatherElements(op.Pad(labels, _ints(0, 0, 0, max_candidates)), order, axis=1)
    return found, scores, op.Where(valid, labels, op.Constant(value_int=-1))


def _greedy(boxes: Any, scores: Any, limit: Any, kind: str, beta: float, ids: Sequence[Any], max_out: Any) -> Any:
    """``nms_function`` of ``_wide`` batches; max_out: [1]."""
    last = _ints(-1)
    columns = [op.Unsqueeze(op.Cast(i, to=INT64), last) for i in ids]
    if not columns:
        columns = [op.Expand(op.Constant(value_int=0), op.Concat(op.Shape(scores), _ints(1), axis=0))]
    function = nms_function(*variant(kind, beta))
    return call(function, boxes, scores, op.Concat(*columns, axis=-1), limit, _double(beta), max_out)


def nms_padded(
    boxes: Any, scores: Any, iou_threshold: float, kind: str, beta: float, class_ids: Any, max_out: int
) -> Any:
    ids = [] if class_ids is None else [class_ids]
    limit = _threshold(iou_threshold, boxes)
    indices = _greedy(_wide(boxes), _wide(scores), limit, kind, beta, ids, _ints(max_out))
    kept = op.Cast(op.GreaterOrEqual(indices, op.Constant(value_int=0)), to=INT64)
    return indices, op.ReduceSum(kept, _ints(1), keepdims=0)


def nms(
    boxes: Any, scores: Any, iou_threshold: float, kind: str, beta: float, class_ids: Any = None, batch_ids: Any = None
) -> Any:
    first, limit = _ints(0), _threshold(iou_threshold, boxes)
    ids = [op.Unsqueeze(t, first) for t in (class_ids, batch_ids) if t is not None]
    boxes, scores = op.Unsqueeze(_wide(boxes), first), op.Unsqueeze(_wide(scores), first)
    indices = op.Squeeze(_greedy(boxes, scores, limit, kind, beta, ids, op.Shape(scores, start=1)), first)
    return op.Compress(indices, op.GreaterOrEqual(indices, op.Constant(value_int=0)))
