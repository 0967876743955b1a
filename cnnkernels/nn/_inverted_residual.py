"""Expansion, depthwise convolution and projection in evaluation on a CPU as one call that stores no map in between.

Which modules they are, their folded and packed weights, and everything these depend on are kept as a plan; a call asks only
whether all of it is still so (15 us a block, where finding it out costs 50 us a convolution).  Like folded weights, plans
are dropped by ``train()``, ``eval()``, ``to()`` and ``load_state_dict``, and a write through ``tensor.data`` is not seen.

Whole networks against eager modules in channels_last, fp32, one thread of a Sapphire Rapids, batch 1 and 8: MobileNetV2 2.6x
and 4.0x, MobileNetV3-Large 2.3x and 2.5x, EfficientNet-B0 2.2x and 2.6x; with one call a convolution 1.7x and 1.9x, 1.7x
and 2.2x, 1.5x and 1.4x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels import _activation, _backend, _conv, _ext, _op
from cnnkernels.nn import _unit
from cnnkernels.nn._fold import fold, sources_of
from cnnkernels.nn.activation import activation_name
from cnnkernels.nn.sequential import FusedSequential, plus
from cnnkernels.ops.pointwise_conv_bn_act import pack

_AVAILABLE = _ext.has_kernel("inverted_residual", "cpu")
_KEY = "inverted residual"
_Unit = tuple[Any, Any, Any]  # convolution, BatchNorm, activation or None


class Squeeze(nn.Module):
    """A squeeze-and-excitation between depthwise convolution and projection; its class defines ``parts`` itself.

    A subclass of ``SqueezeExcite`` does not, and may compute anything: it is called.
    """

    def parts(self) -> tuple[Any, Any, str, str] | None:
        """The two layers and the names of activation and gate, or None where a child has to be called as a module."""
        raise NotImplementedError


def _geometry(conv: Any) -> tuple[Any, ...]:
    return conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode


def _children(module: Any) -> tuple[Any, ...]:
    return tuple(module._modules.values())


@dataclass(frozen=True)
class _Plan:
    modules: tuple[tuple[Any, type], ...]
    children: tuple[tuple[Any, tuple[Any, ...]], ...]
    convs: tuple[tuple[Any, tuple[Any, ...]], ...]
    norms: tuple[tuple[Any, float], ...]
    acts: tuple[tuple[Any, str], ...]
    tensors: tuple[tuple[dict[str, Any], str, Any, int, int], ...]
    channels: int
    squeeze: Squeeze | None
    arguments: tuple[Any, ...]

    def holds(self) -> bool:
        return (
            all(_unit.untouched(m, c) for m, c in self.modules)
            and all(_children(m) == c for m, c in self.children)
            and all(_geometry(c) == g for c, g in self.convs)
            and all(not bn.training and bn.eps == eps for bn, eps in self.norms)
            and all(activation_name(act) == name for act, name in self.acts)
            and all(
                held.get(name) is t and (t is None or (t._version == version and t.data_ptr() == pointer))
                for held, name, t, version, pointer in self.tensors
            )
        )


def _units(block: FusedSequential) -> tuple[list[Any], list[_Unit], Squeeze | None] | None:
    """The nested sequentials, units and squeeze-and-excitation of an inverted residual, or None if it is something else."""
    sequentials: list[Any] = [block]
    leaves: list[Any] = []
    for child in _children(block):
        if type(child) is FusedSequential:
            sequentials.append(child)
            leaves += _children(child)
        else:
            leaves.append(child)
    units: list[_Unit] = []
    squeeze, at = None, -1
    while leaves:
        if isinstance(leaves[0], Squeeze):
            if squeeze is not None or "parts" not in type(leaves[0]).__dict__:
                return None
            squeeze, at = leaves.pop(0), len(units)
            continue
        conv, bn, *leaves = leaves if len(leaves) > 1 else (None, None)
        act = leaves.pop(0) if leaves and not isinstance(leaves[0], (nn.Conv2d, Squeeze)) else None
        if type(conv) is not nn.Conv2d or type(bn) is not nn.BatchNorm2d:
            return None
        units.append((conv, bn, act))
    if len(units) not in (2, 3) or not _unit.is_depthwise(units[-2][0]):
        return None
    if squeeze is not None and at != len(units) - 1:
        return None
    pointwise = [units[0][0], units[-1][0]] if len(units) == 3 else [units[-1][0]]
    if any(_geometry(c)[:5] != ((1, 1), (1, 1), (0, 0), (1, 1), 1) for c in pointwise):
        return None
    names = [None if act is None else activation_name(act) for _, _, act in units]
    if names[-1] not in (None, "identity") or names[0] is None or len(set(names[:-1])) > 1:
        return None
    return sequentials, units, squeeze


def _made(x: Tensor, sequentials: list[Any], units: list[_Unit], squeeze: Squeeze | None) -> _Plan | None:
    """The plan of these modules as they are now; None where something wants them called, or a gradient."""
    modules = [*sequentials, *(m for u in units for m in u if m is not None)]
    if squeeze is not None:
        modules.append(squeeze)
    tensors = [t for conv, bn, _ in units for t in sources_of(conv, bn) if t is not None]
    if (
        not all(_unit.untouched(m, type(m)) for m in modules)
        or not all(_unit.fully_readable(conv) and _unit.fully_readable_norm(bn) for conv, bn, _ in units)
        or any(bn.training or bn.running_mean is None for _, bn, _ in units)
        or any(t.dtype is not torch.float32 or not t.is_cpu or t.is_inference() for t in tensors)
    ):
        return None
    (depthwise, norm, act), (last, last_norm, _) = units[-2:]
    name = activation_name(act)
    assert name is not None
    window = _conv.native(depthwise.weight, depthwise.stride, _unit.padding_of(depthwise, x), depthwise.dilation)
    with torch.inference_mode(False), torch.no_grad():
        expand = None
        if len(units) == 3:
            expand = fold(*units[0][:2], torch.float32, into_weight=True, reorder=pack).weight
        middle = fold(depthwise, norm, torch.float32, into_weight=False)
        project = fold(last, last_norm, torch.float32, into_weight=True, reorder=pack).weight
    assert middle.weight is not None
    kept = []
    for conv, bn, _ in units:
        for held, key in (
            (conv._parameters, "weight"),
            (conv._parameters, "bias"),
            (bn._parameters, "weight"),
            (bn._parameters, "bias"),
            (bn._buffers, "running_mean"),
            (bn._buffers, "running_var"),
        ):
            t = held[key]
            kept.append((held, key, t, 0 if t is None else t._version, 0 if t is None else t.data_ptr()))
    return _Plan(
        tuple((m, type(m)) for m in modules),
        tuple((m, _children(m)) for m in sequentials),
        tuple((conv, _geometry(conv)) for conv, _, _ in units),
        tuple((bn, bn.eps) for _, bn, _ in units),
        tuple((a, activation_name(a) or "") for _, _, a in units if a is not None),
        tuple(kept),
        units[0][0].in_channels,
        squeeze,
        (
            expand,
            middle.weight.detach().contiguous(),
            middle.scale,
            middle.shift,
            project,
            last.out_channels,
            window,
            *_activation.parse(name),
        ),
    )


def _plan(block: FusedSequential, x: Tensor) -> _Plan | None:
    plan = block._folds.get(_KEY)
    if plan is None:
        found = _units(block)
        if found is None:
            block._folds[_KEY] = False  # nothing but another structure makes it one: ask no more
        elif (plan := _made(x, *found)) is not None:
            block._folds[_KEY] = plan
    elif plan and not plan.holds():
        del block._folds[_KEY]
        return _plan(block, x)
    return plan or None


def inverted_residual(block: Any, x: Any, residual: bool) -> Any:
    """``block(x)``, plus x if ``residual``: as one call where that is possible, else by its modules."""
    y = _as_one(block, x, residual)
    if y is not None:
        return y
    return plus(block, x, x) if residual else block(x)


def _as_one(block: Any, x: Any, residual: bool) -> Tensor | None:
    if (
        not _AVAILABLE
        or type(block) is not FusedSequential
        or type(x) is not Tensor
        or not _unit.ordinary_call(x)
        or torch.compiler.is_compiling()
        or not _backend.STATE.plain
        or _op._dispatcher_is_needed()
        or not x.is_cpu
        or x.dtype is not torch.float32
        or x.dim() != 4
        or not x.is_contiguous(memory_format=torch.channels_last)
    ):
        return None
    plan = _plan(block, x)
    if plan is None or x.shape[1] != plan.channels or x.numel() == 0:
        return None
    if torch.is_grad_enabled() and (
        x.requires_grad or any(t is not None and t.requires_grad for _, _, t, _, _ in plan.tensors)
    ):
        return None
    layers: tuple[Any, ...] = (None, None, None, None, 0, 0.0, 0)
    if plan.squeeze is not None:
        parts = plan.squeeze.parts()
        if parts is None:
            return None
        fc1, fc2, act, gate = parts
        layers = (fc1.weight, fc1.bias, fc2.weight, fc2.bias, *_activation.parse(act), _activation.CODES[gate])
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in layers[:4]):
            return None
    try:
        y: Tensor = _ext.direct_ops.inverted_residual(x, *plan.arguments, residual, *layers)
    except RuntimeError:
        return (
            None  # a window or an instruction set that the kernel does not take: the modules run, or say what is wrong
        )
    return y
