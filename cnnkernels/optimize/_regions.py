"""Modules that compute a region of somebody's network: their children are the network's own, no copies.

None of them is a child of the network, so its names and keys stay as they are.  Each computes as ``cnnkernels.nn`` does: by a
fused op where nobody would notice, by its children where one has hooks or has become something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cnnkernels import ops
from cnnkernels.nn import FusedSequential, _unit
from cnnkernels.nn._chain import Squeeze
from cnnkernels.nn._fold import FoldsBatchNorm
from cnnkernels.nn._image import as_channels_last, mean_over_pixels
from cnnkernels.nn._inverted_residual import inverted_residual, plan_of
from cnnkernels.nn._plan import Plan
from cnnkernels.nn._trunk import through
from cnnkernels.nn._unit_plan import unit_plan
from cnnkernels.nn.activation import activation_name


class Unit(FoldsBatchNorm):
    """``act(bn(conv(x)) + shortcut) + residual``; each may be None.  added: which of the two forward's second argument is."""

    def __init__(self, conv: Any, bn: Any, act: Any, added: str | None = None) -> None:
        super().__init__()
        self.conv, self.bn, self.act, self.added = conv, bn, act, added

    def forward(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        sums = {} if self.added is None else {self.added: addend}
        return _unit.run(self, None, x, self.conv, self.bn, self.act, **sums)

    def _plan(self, x: Tensor) -> Plan | None:
        return unit_plan(self, x, self.conv, self.bn, self.act) if self.conv is not None else None


class Bottleneck(nn.Module):
    """Expansion (or none), depthwise convolution, squeeze-and-excitation (or none), projection; plus x if ``residual``."""

    def __init__(self, layers: Sequence[nn.Module], residual: bool) -> None:
        super().__init__()
        self.block: Any = FusedSequential(*layers)
        self.residual = residual

    def forward(self, x: Tensor) -> Any:
        return inverted_residual(self.block, x, self.residual)

    def _plan(self, x: Tensor) -> Plan | None:
        return plan_of(self.block, x, self.residual)


class Excite(Squeeze):
    """``x * gate(fc2(act(fc1(mean of x over H and W))))``, the layers being 1x1 convolutions or linear."""

    def __init__(self, fc1: nn.Module, act: nn.Module, fc2: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2, self.gate = fc1, act, fc2, gate

    def parts(self) -> tuple[Any, Any, str, str] | None:
        act, gate = activation_name(self.act), activation_name(self.gate)
        readable = all(
            _unit.untouched(fc, nn.Linear, nn.Conv2d) and _unit.readable(fc, None) for fc in (self.fc1, self.fc2)
        )
        if (
            readable
            and act is not None
            and gate in ("sigmoid", "hard_sigmoid")
            and _unit.untouched(self.act, type(self.act))
            and _unit.untouched(self.gate, type(self.gate))
        ):
            return self.fc1, self.fc2, act, gate
        return None

    def forward(self, x: Tensor) -> Tensor:
        parts = self.parts() if _unit.ordinary_call(x) else None
        if parts is None:
            y = x.mean((2, 3), keepdim=True)
            for layer in (self.fc1, self.act, self.fc2, self.gate):
                linear = isinstance(layer, nn.Linear)
                y = layer(y.flatten(1))[:, :, None, None] if linear else layer(y)
            return x * y
        fc1, fc2, act, gate = parts
        return ops.squeeze_excite(
            x, fc1.weight.flatten(1), fc1.bias, fc2.weight.flatten(1), fc2.bias, act=act, gate=gate
        )


class Pyramid(nn.Module):
    """``cat([x, pool(x), ...])`` with square windows of ``sizes`` at stride 1."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)

    def forward(self, x: Tensor) -> Tensor:
        return ops.spp(x, self.sizes)


class ChannelsLast(nn.Module):
    """x in the layout that convolutions are faster in; only for images."""

    def forward(self, x: Any) -> Any:
        return as_channels_last(x) if isinstance(x, Tensor) and x.dim() == 4 and x.is_floating_point() else x


class PixelMean(nn.Module):
    """The mean over H and W, as [N, C, 1, 1] if ``keepdim``, else [N, C]."""

    def __init__(self, keepdim: bool) -> None:
        super().__init__()
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        y = mean_over_pixels(x)
        return y[:, :, None, None] if self.keepdim else y


class Run(FoldsBatchNorm):
    """Regions one after the other, as one native call where they have plans."""

    def __init__(self, steps: Sequence[nn.Module]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Tensor) -> Tensor:
        return through(self, list(self.steps), x)  # type: ignore[arg-type,no-any-return]
