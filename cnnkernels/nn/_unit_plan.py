"""One convolution with its BatchNorm and activation as a plan: depthwise ones, and those of ``_pointwise``, ``_stem``
and ``_winograd``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels import _activation, _conv
from cnnkernels.nn import _pointwise, _stem, _unit, _winograd
from cnnkernels.nn._fold import Folded, FoldsBatchNorm, fold, sources_of
from cnnkernels.nn._plan import Plan, kept_plan, padded, snapshot_of
from cnnkernels.nn.activation import activation_name
from cnnkernels.ops.pointwise_conv_bn_act import pack


def unit_plan(owner: FoldsBatchNorm, x: Tensor, conv: Any, bn: Any, act: Any) -> Plan | None:
    """``act(bn(conv(x)))``, children of the owner (bn, act: or None), by a kernel of ours; or None."""
    return kept_plan(owner, "unit", x, lambda: _make(owner, x, conv, bn, act))


def _make(owner: FoldsBatchNorm, x: Tensor, conv: Any, bn: Any, act: Any) -> Plan | None:
    modules = [owner, *(m for m in (conv, bn, act) if m is not None)]
    if type(bn) is nn.Identity:
        bn = None
    name = "identity" if act is None else activation_name(act)
    if (
        not isinstance(conv, nn.Conv2d)
        or not (bn is None or type(bn) is nn.BatchNorm2d)
        or name is None
        or not all(_unit.untouched(m, type(m)) for m in modules)
        or not _unit.fully_readable(conv)
        or not (bn is None or _unit.fully_readable_norm(bn))
        or not _unit.may_fold_weights(x, conv, bn)
    ):
        return None
    sources = tuple(t for t in sources_of(conv, bn) if t is not None)
    if any(t.dtype is not torch.float32 or t.is_inference() for t in sources):
        return None
    function, arguments = _call(x, conv, bn, name)
    if function is None:
        return None
    padding = None if function == "pointwise_packed" else padded(conv, x)
    return Plan(function, arguments, conv.in_channels, snapshot_of(modules), sources, padding)


def _call(x: Tensor, conv: Any, bn: Any, act: str) -> tuple[str | None, tuple[Any, ...]]:
    """The kernel, and its arguments after x."""

    def folded(reorder: Any = None) -> Folded:
        # Normal tensors without history, also in inference mode: a later call may need a gradient for x.
        with torch.inference_mode(False), torch.no_grad():
            return fold(conv, bn, torch.float32, into_weight=reorder is not None, reorder=reorder)

    code, padding = _activation.parse(act), _unit.padding_of(conv, x)
    if _pointwise.suits(x, conv):
        return "pointwise_packed", (folded(pack).weight, conv.out_channels, None, None, *code)
    if _stem.suits(x, conv, act):
        packed, sides = folded(_stem.reorder).weight, _conv.sides(padding)
        return "stem_conv", (packed, conv.out_channels, conv.kernel_size, conv.stride, sides, *code)
    if _winograd.suits(x, conv, padding):
        packed = folded(_winograd.reorder).weight
        return "winograd", (packed, conv.out_channels, _conv.sides(padding), None, None, *code)
    if _unit.is_depthwise(conv):
        kept = folded()
        assert kept.weight is not None
        window = _conv.native(conv.weight, conv.stride, padding, conv.dilation)
        return "dwconv", (kept.weight.detach().contiguous(), kept.scale, kept.shift, None, window, *code)
    return None, ()
