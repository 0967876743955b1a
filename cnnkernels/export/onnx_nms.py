"""Greedy NMS as an ONNX function: a ``Loop`` with one step per kept box, of all images at once.

In a step the box with the highest score that is left is kept, and what it overlaps goes.  The loop ends when no image
has a box left, or all have ``max_out``: O(N) memory, and after a few steps where a picture holds a few objects.  The
overlaps are those of ``cnnkernels._boxes``, in the same order of roundings, so the same boxes are kept.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from cnnkernels.export._onnxscript import INT64, Opset, opset18, script
from cnnkernels.export.onnx_boxes import OVERLAPS

op = opset18


@cache
def nms_function(kind: str, with_beta: bool) -> Any:
    """The function of (boxes [B, N, 4], scores [B, N], ids [B, N, M], threshold, beta, max_out) -> indices [B, max_out].

    ids: only boxes that agree in all M of them remove each other.  threshold: rounded to boxes' dtype; beta: a double;
    max_out: [1].  indices: -1 where there is none.
    """
    overlap = OVERLAPS[kind, with_beta]
    domain = Opset(f"cnnkernels.nms.{kind}{'_beta' if with_beta else ''}", 1)  # functions of one name need several

    @script(domain, default_opset=opset18)
    def greedy(boxes, scores, ids, threshold, beta, max_out) -> INT64[...]:
        first_axis = op.Constant(value_ints=[0])
        second_axis = op.Constant(value_ints=[1])
        last_axis = op.Constant(value_ints=[-1])
        lowest = op.CastLike(op.Constant(value_float=float("-inf")), scores)
        images = op.Shape(scores, start=0, end=1)
        number = op.Shape(scores, start=1, end=2)
        box = op.Unsqueeze(op.Range(0, op.Squeeze(number), 1), first_axis)  # [1, N]
        place = op.Unsqueeze(op.Range(0, op.Squeeze(max_out), 1), first_axis)  # [1, max_out]
        indices = op.Expand(op.Constant(value_ints=[-1]), op.Concat(images, max_out, axis=0))
        finite = op.Not(op.Or(op.IsInf(boxes), op.IsNaN(boxes)))
        whole = op.ReduceMin(op.Cast(finite, to=6), last_axis, keepdims=0)
        left = op.And(op.Cast(whole, to=9), op.Not(op.IsNaN(scores)))
        step = op.Constant(value_int=0)
        # Bools are counted as int32, what onnxruntime reduces; of no boxes the sum is 0.
        goes_on = op.And(op.Cast(op.ReduceSum(op.Cast(left, to=6), keepdims=0), to=9), step < op.Squeeze(max_out))
        while goes_on:
            highest = op.ReduceMax(op.Where(left, scores, lowest), second_axis, keepdims=1)
            best = op.Cast(op.And(left, scores == highest), to=6)
            kept = op.ArgMax(best, axis=1, keepdims=1, select_last_index=0)  # [B, 1]; of equal scores the first
            kept_box = op.GatherND(boxes, kept, batch_dims=1)
            kept_ids = op.GatherND(ids, kept, batch_dims=1)
            over = overlap(op.Unsqueeze(kept_box, second_axis), boxes, beta) > threshold
            agree = op.Cast(ids == op.Unsqueeze(kept_ids, second_axis), to=6)
            removed = op.And(over, op.Cast(op.ReduceMin(agree, last_axis, keepdims=0), to=9))
            any_left = op.Cast(op.ReduceSum(op.Cast(left, to=6), second_axis, keepdims=1), to=9)
            indices = op.Where(op.And(place == step, any_left), kept, indices)
            left = op.And(op.And(left, op.Not(removed)), op.Not(box == kept))
            step = step + 1
            goes_on = op.And(op.Cast(op.ReduceSum(op.Cast(left, to=6), keepdims=0), to=9), step < op.Squeeze(max_out))
        return indices

    return greedy
