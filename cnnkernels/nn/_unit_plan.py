"""One convolution with its BatchNorm and activation as a plan: those that ``_pointwise`` and ``_stem`` compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels import _activation, _conv
from cnnkernels.nn import _pointwise, _stem, _unit
from cnnkernels.nn._fold import FoldsBatchNorm, fold, sources_of
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
    reorder: Any
    window: tuple[Any, ...]
    if _pointwise.suits(x, conv):
        function, reorder, window = "pointwise_packed", pack, (None, None)
    elif _stem.suits(x, conv, name):
        sides = _conv.sides(_unit.padding_of(conv, x))
        function, reorder, window = "stem_conv", _stem.reorder, (conv.kernel_size, conv.stride, sides)
    else:
        return None
    # Normal tensors without history, also in inference mode: a later call may need a gradient for x.
    with torch.inference_mode(False), torch.no_grad():
        packed = fold(conv, bn, torch.float32, into_weight=True, reorder=reorder).weight
    arguments = packed, conv.out_channels, *window, *_activation.parse(name)
    padding = padded(conv, x) if function == "stem_conv" else None
    return Plan(function, arguments, conv.in_channels, snapshot_of(modules), sources, padding)
