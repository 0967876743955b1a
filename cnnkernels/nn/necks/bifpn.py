"""BiFPN: Tan, Pang, Le 2019, "EfficientDet: Scalable and Efficient Object Detection", arXiv:1911.09070, section 3.

The parameter names are those of the package effdet: ``resample.LEVEL``, ``cell.N.fnode.M``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.nn import _unit
from cnnkernels.nn._fold import TENSORS
from cnnkernels.nn.activation import activation_name, create_activation
from cnnkernels.nn.conv import ConvBNAct
from cnnkernels.nn.necks._resize import check_maps, halved, upsampled
from cnnkernels.nn.separable import SeparableConv2d
from cnnkernels.ops.weighted_fusion import MOST_MAPS, weighted_fusion

FUSIONS = ("fast", "sum")


class BiFPNFusion(nn.Module):
    """A sum of maps of one shape [N, C, H, W], weighted by what training finds of use; section 3.3 of the paper.

        fast    sum_i w_i x_i / (sum_j w_j + 1e-4),  w = relu(edge_weights)
        sum     sum_i x_i

    inputs: how many maps, at least 2.  Key: ``edge_weights`` [inputs], ones at first; none for "sum".
    """

    edge_weights: Any

    def __init__(self, inputs: int, fusion: str = "fast") -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"BiFPNFusion: fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}")
        if inputs < 2:
            raise ValueError(f"BiFPNFusion: inputs must be at least 2, got {inputs}")
        self.inputs = inputs
        self.register_parameter("edge_weights", nn.Parameter(torch.ones(inputs)) if fusion == "fast" else None)

    def forward(self, maps: Sequence[Tensor], act: nn.Module | None = None) -> Tensor:
        """act: an activation of the sum, computed in the same pass where nobody watches."""
        if len(maps) != self.inputs:
            raise ValueError(f"BiFPNFusion: needs {self.inputs} maps, got {len(maps)}")
        name = activation_name(act) if act is None or _unit.untouched(act, type(act)) else None
        if name is not None and self._as_one_op(maps):
            return weighted_fusion(maps, self.edge_weights, act=name)
        y = self._step_by_step(maps)
        return y if act is None else act(y)  # type: ignore[no-any-return]

    def _as_one_op(self, maps: Sequence[Tensor]) -> bool:
        weights, first = self.edge_weights, maps[0]
        return (
            type(weights) in TENSORS
            and len(maps) <= MOST_MAPS
            and _unit.ordinary_call(first)
            and first.dim() == 4
            and all(type(x) in TENSORS and x.shape == first.shape and x.dtype is first.dtype for x in maps)
            and weights.dtype in (torch.float32, first.dtype)
        )

    def _step_by_step(self, maps: Sequence[Tensor]) -> Tensor:
        first, *rest = maps
        if self.edge_weights is None:
            y = first + rest[0]
            for x in rest[1:]:
                y += x
            return y
        weights = self.edge_weights.to(first.dtype).relu()
        weights = weights / (weights.sum() + 1e-4)
        y = first * weights[0]
        for i, x in enumerate(rest, 1):
            y.addcmul_(x, weights[i])  # y is this function's own
        return y


class _Resample(nn.Module):
    """A map with the channels (1x1 convolution, BatchNorm) and then the size of another level."""

    def __init__(self, in_channels: int, channels: int, bias: bool, **bn: Any) -> None:
        super().__init__()
        if in_channels != channels:
            self.conv = ConvBNAct(in_channels, channels, 1, act="identity", bias=bias, **bn)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        conv: Any = self._modules.get("conv")
        x = x if conv is None else conv(x)
        return halved(x) if x.shape[2] > size[0] or x.shape[3] > size[1] else upsampled(x, size)


class _Combine(BiFPNFusion):
    """Some of the maps there are, resampled and fused."""

    def __init__(
        self, sources: Sequence[int], in_channels: Sequence[int], channels: int, fusion: str, **kw: Any
    ) -> None:
        super().__init__(len(sources), fusion)
        self.resample: Any = nn.ModuleDict({str(i): _Resample(in_channels[i], channels, **kw) for i in sources})

    def forward(  # type: ignore[override]
        self, maps: Sequence[Tensor], size: Sequence[int], act: nn.Module | None = None
    ) -> Tensor:
        return super().forward([resample(maps[int(i)], size) for i, resample in self.resample.items()], act)


class _Node(nn.Module):
    """Fusion, activation, separable convolution with BatchNorm."""

    def __init__(self, combine: _Combine, channels: int, act: str, bias: bool, **bn: Any) -> None:
        super().__init__()
        self.combine = combine
        convolution = SeparableConv2d(channels, channels, bias=bias, norm=True, **bn)
        self.after_combine = nn.Sequential(OrderedDict(act=create_activation(act, inplace=True), conv=convolution))

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        act, conv = self.after_combine._modules.get("act"), self.after_combine._modules.get("conv")
        if (
            act is not None
            and conv is not None
            and len(self.after_combine) == 2
            and _unit.untouched(self.after_combine, nn.Sequential)
            and _unit.untouched(self.combine, _Combine)
            and _unit.ordinary_call(maps[0])
        ):
            return conv(self.combine(maps, size, act))  # type: ignore[no-any-return]
        return self.after_combine(self.combine(maps, size))  # type: ignore[no-any-return]


def nodes(levels: int) -> list[tuple[int, tuple[int, ...]]]:
    """(level, sources) of every node of a cell: figure 3 (d) of the paper.

    Sources count the cell's ``levels`` inputs first, finest first, then the nodes.  First the way down to level 0, then
    the way up, whose nodes also see the input of their level.  The last ``levels`` nodes are the results.
    """
    newest, made = list(range(levels)), levels
    found: list[tuple[int, tuple[int, ...]]] = []
    for level in (*range(levels - 2, -1, -1), *range(1, levels)):
        up = len(found) >= levels - 1
        neighbour = newest[level - 1] if up else newest[level + 1]
        found.append((level, (*sorted({level, newest[level]}), neighbour)))
        newest[level], made = made, made + 1
    return found


class BiFPNCell(nn.Module):
    """One pass down and one pass up over all levels.

    in_channels: of the maps, finest first; each has half the height and width of the one before, rounded up.
    channels: of every result.  Others as in ``BiFPN``.

    maps: a list of [N, in_channels[i], H_i, W_i]; returns a list of [N, channels, H_i, W_i].
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int, fusion: str = "fast", act: str = "silu", **kw: Any
    ) -> None:
        super().__init__()
        levels = len(in_channels)
        widths = [*in_channels, *[channels] * (2 * levels - 2)]
        self._levels = [level for level, _ in nodes(levels)]
        self.fnode = nn.ModuleList(
            _Node(_Combine(sources, widths, channels, fusion, **kw), channels, act, **kw)
            for _, sources in nodes(levels)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        known = list(maps)
        for level, node in zip(self._levels, self.fnode, strict=True):
            known.append(node(known, maps[level].shape[2:]))
        return known[-len(maps) :]


class BiFPN(nn.Module):
    """A stack of ``BiFPNCell``, over the maps of a backbone and the coarser ones made of its last.

    in_channels: of the backbone's maps, finest first, each at twice the stride of the one before.
    channels: of every result, ``self.channels`` lists them.
    cells: how many.  levels: how many results; those that the backbone has no map for are 3x3 max pooling of the
        coarser neighbour at stride 2.
    fusion: "fast" or "sum", see ``BiFPNFusion``.
    bias: of the convolutions before a BatchNorm, where it is of no use but TensorFlow's checkpoints have it.
    eps, momentum: of every BatchNorm.

    maps: a list of [N, in_channels[i], H_i, W_i], H_i the half of the one before, rounded up.  Returns a list of
    ``levels`` maps [N, channels, H_i, W_i], where H goes on halving.  Raises ValueError for other channels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 64,
        cells: int = 3,
        levels: int = 5,
        fusion: str = "fast",
        act: str = "silu",
        bias: bool = True,
        eps: float = 1e-3,
        momentum: float = 0.01,
    ) -> None:
        super().__init__()
        if not levels >= 2 or not 1 <= len(in_channels) <= levels or cells < 1:
            raise ValueError(
                "BiFPN: needs at least one cell, two levels and no more maps than levels, "
                f"got cells={cells}, levels={levels}, in_channels={list(in_channels)}"
            )
        kw: dict[str, Any] = {"bias": bias, "eps": eps, "momentum": momentum}
        self._in_channels, self.channels = list(in_channels), [channels] * levels
        widths = list(in_channels)
        self.resample: Any = nn.ModuleDict()
        for level in range(len(widths), levels):
            self.resample[str(level)] = _Resample(widths[-1], channels, **kw)
            widths.append(channels)
        self.cell = nn.ModuleList(
            BiFPNCell(self.channels if i else widths, channels, fusion, act, **kw) for i in range(cells)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        check_maps("BiFPN", maps, self._in_channels)
        levels = list(maps)
        for resample in self.resample.values():
            height, width = levels[-1].shape[2:]
            levels.append(resample(levels[-1], (-(-height // 2), -(-width // 2))))
        for cell in self.cell:
            levels = cell(levels)
        return levels
