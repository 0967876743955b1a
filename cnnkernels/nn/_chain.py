"""Expansion, depthwise convolution, squeeze-and-excitation, projection: what such a block consists of, and its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels import _activation, _conv, _ext
from cnnkernels.nn import _unit
from cnnkernels.nn._fold import fold, sources_of
from cnnkernels.nn.activation import activation_name
from cnnkernels.nn.conv_same import Conv2dSame
from cnnkernels.nn.sequential import FusedSequential
from cnnkernels.ops.pointwise_conv_bn_act import pack

Unit = tuple[Any, Any, Any]  # convolution, BatchNorm, activation or None


class Squeeze(nn.Module):
    """A squeeze-and-excitation between depthwise convolution and projection; its class defines ``parts`` itself.

    A subclass of ``SqueezeExcite`` does not, and may compute anything: it is called.
    """

    def parts(self) -> tuple[Any, Any, str, str] | None:
        """The two layers and the names of activation and gate, or None where a child has to be called as a module."""
        raise NotImplementedError


@dataclass(frozen=True)
class Chain:
    """Expansion (or none), depthwise convolution and projection: the nested sequentials that hold them, and the units."""

    sequentials: tuple[FusedSequential, ...]
    units: tuple[Unit, ...]
    squeeze: Squeeze | None
    acts: tuple[int, int, int]  # codes: after expansion, depthwise convolution, projection
    slope: float

    @property
    def channels(self) -> int:
        return self.units[0][0].in_channels  # type: ignore[no-any-return]

    @property
    def out_channels(self) -> int:
        return self.units[-1][0].out_channels  # type: ignore[no-any-return]

    def modules(self) -> list[Any]:
        squeeze = [] if self.squeeze is None else list(self.squeeze.modules())
        return [*self.sequentials, *(m for unit in self.units for m in unit if m is not None), *squeeze]

    def sources(self) -> tuple[Tensor, ...] | None:
        """The tensors that it computes with; None where one of its modules wants to be called."""
        units = self.units
        layers: tuple[Any, ...] = ()
        if self.squeeze is not None:
            parts = self.squeeze.parts()
            if parts is None:
                return None
            layers = parts[:2]
        of_all = [t for conv, bn, _ in units for t in sources_of(conv, bn)] + [
            t for layer in layers for t in sources_of(layer, None)
        ]
        tensors = tuple(t for t in of_all if t is not None)
        if (
            not all(_unit.untouched(m, type(m)) for m in self.modules())
            or not all(_unit.fully_readable(conv) and _unit.fully_readable_norm(bn) for conv, bn, _ in units)
            or any(bn.training or bn.running_mean is None for _, bn, _ in units)
            or any(t.dtype is not torch.float32 or not t.is_cpu or t.is_inference() for t in tensors)
        ):
            return None
        return tensors

    @property
    def depthwise(self) -> Any:
        return self.units[-2][0]

    def window(self, x: Tensor) -> Any:
        conv = self.depthwise
        return _conv.native(conv.weight, conv.stride, _unit.padding_of(conv, x), conv.dilation)

    def folded(self) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        """Packed expansion, the depthwise weight (for its sizes), the same packed, packed projection."""
        # Normal tensors without history, also in inference mode: a later call may need a gradient for x.
        with torch.inference_mode(False), torch.no_grad():
            packed = [
                fold(conv, bn, torch.float32, into_weight=True, reorder=pack).weight
                for conv, bn, _ in (*self.units[:-2], self.units[-1])
            ]
            middle = fold(*self.units[-2][:2], torch.float32, into_weight=False)
            assert middle.weight is not None and packed[-1] is not None
            weight = middle.weight.detach().contiguous()
            depthwise = _ext.direct_ops.dwconv_pack(weight, middle.scale, middle.shift)
        return packed[0] if len(packed) == 2 else None, weight, depthwise, packed[-1]


def geometry(conv: Any) -> tuple[Any, ...]:
    return conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode


def children(module: Any) -> tuple[Any, ...]:
    return tuple(module._modules.values())


def chain_of(block: FusedSequential) -> Chain | None:
    """What the block consists of, or None if it is something else."""
    sequentials, leaves = [block], list[Any]()
    for child in children(block):
        if type(child) is FusedSequential:
            sequentials.append(child)
            leaves += children(child)
        else:
            leaves.append(child)
    units: list[Unit] = []
    squeeze, at = None, -1
    while leaves:
        if isinstance(leaves[0], Squeeze):
            if squeeze is not None or "parts" not in type(leaves[0]).__dict__:
                return None
            squeeze, at = leaves.pop(0), len(units)
            continue
        conv, bn, *leaves = leaves if len(leaves) > 1 else (None, None)
        act = leaves.pop(0) if leaves and not isinstance(leaves[0], (nn.Conv2d, Squeeze)) else None
        if type(conv) not in (nn.Conv2d, Conv2dSame) or type(bn) is not nn.BatchNorm2d:
            return None
        units.append((conv, bn, act))
    if len(units) not in (2, 3) or not _unit.is_depthwise(units[-2][0]):
        return None
    if squeeze is not None and at != len(units) - 1:
        return None
    if any(geometry(c)[:5] != ((1, 1), (1, 1), (0, 0), (1, 1), 1) for c, _, _ in (*units[:-2], units[-1])):
        return None
    names = ["identity" if act is None else activation_name(act) for _, _, act in units]
    if None in names or len({name for name in names if name != "identity"}) > 1:
        return None
    parsed = [_activation.parse(str(name)) for name in names]
    codes = [code for code, _ in parsed]
    slope = next((slope for name, (_, slope) in zip(names, parsed, strict=True) if name != "identity"), 0.0)
    first = codes[0] if len(codes) == 3 else _activation.CODES["identity"]
    return Chain(tuple(sequentials), tuple(units), squeeze, (first, codes[-2], codes[-1]), slope)
