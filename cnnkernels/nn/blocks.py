"""Blocks of the mobile networks, with torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from cnnkernels import ops
from cnnkernels.nn import _unit
from cnnkernels.nn._block import FusedBlock
from cnnkernels.nn._chain import Squeeze
from cnnkernels.nn._inverted_residual import inverted_residual, plan_of
from cnnkernels.nn._plan import Plan, snapshot_of
from cnnkernels.nn._shuffle_stage import shuffle_stage, stage_plan
from cnnkernels.nn.activation import activation_name, create_activation
from cnnkernels.nn.conv import same_padding
from cnnkernels.nn.sequential import FusedSequential


def conv_bn_act(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    stride: int = 1,
    groups: int = 1,
    act: str | None = "relu6",
    dilation: int = 1,
    conv: Callable[..., nn.Conv2d] = nn.Conv2d,
    **bn: Any,
) -> FusedSequential:
    """Children 0 (Conv2d without bias), 1 (BatchNorm2d, made with ``bn``) and 2 (activation; ``act=None``: no child 2).

    conv: makes the convolution; a subclass of ``nn.Conv2d`` where padding differs.
    """
    padding = same_padding(kernel_size, dilation)
    return FusedSequential(
        conv(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False),
        nn.BatchNorm2d(out_channels, **bn),
        *([] if act is None else [create_activation(act, inplace=True)]),
    )


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection, and the input added where shapes allow.

    Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381, figure 4.

    in_channels, out_channels, stride (1 or 2), expand_ratio: width of the middle = round(in_channels * expand_ratio);
    a ratio of 1 leaves the expansion out.  Keys as in torchvision: ``conv.0.0.weight``, ``conv.0.1.weight``, ...
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        expand_ratio: float,
        kernel_size: int = 3,
        act: str = "relu6",
    ) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"InvertedResidual: stride must be 1 or 2, got {stride}")
        hidden = round(in_channels * expand_ratio)
        if hidden < 1:
            raise ValueError(
                f"InvertedResidual: in_channels * expand_ratio must be at least 1, got {in_channels} * {expand_ratio}"
            )
        layers: list[nn.Module] = [] if expand_ratio == 1 else [conv_bn_act(in_channels, hidden, 1, act=act)]
        layers += [
            conv_bn_act(hidden, hidden, kernel_size, stride, groups=hidden, act=act),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv: Any = FusedSequential(*layers)
        self.stride, self.out_channels = stride, out_channels
        self.use_res_connect = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return inverted_residual(self.conv, x, self.use_res_connect)

    def _plan(self, x: Tensor) -> Plan | None:
        return plan_of(self.conv, x, self.use_res_connect)


class Fire(FusedBlock):
    """A 1x1 convolution to few channels, then 1x1 and 3x3 ones beside each other, each with bias and ReLU.

    Iandola et al. 2016, "SqueezeNet", arXiv:1602.07360, figure 1; torchvision's keys.

    x: [N, in_channels, H, W].  Returns [N, expand1x1 + expand3x3, H, W].
    """

    def __init__(self, in_channels: int, squeeze: int, expand1x1: int, expand3x3: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze, expand1x1, 1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze, expand3x3, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fused(x, "squeeze", None, "squeeze_activation")
        one = self.fused(x, "expand1x1", None, "expand1x1_activation")
        three = self.fused(x, "expand3x3", None, "expand3x3_activation")
        return torch.cat((one, three), dim=1)


class ChannelShuffle(nn.Module):
    """``ops.channel_shuffle(x, groups)``: Zhang et al. 2017, "ShuffleNet", arXiv:1707.01083, section 3.1."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        if not isinstance(groups, int) or isinstance(groups, bool):
            raise TypeError(f"ChannelShuffle: groups must be an int, got {groups!r}")
        if groups < 1:
            raise ValueError(f"ChannelShuffle: groups must be at least 1, got {groups}")
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return ops.channel_shuffle(x, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class ShuffleUnit(nn.Module):
    """The unit of ShuffleNetV2: Ma et al. 2018, arXiv:1807.11164, figure 3 (c) and (d); torchvision's keys.

    Stride 1: the left half of the channels passes, the right half goes through ``branch2``; stride 2: both branches see
    all of x.  Then the halves are joined and shuffled.  x is [N, in_channels, H, W], or the pair (left, right) of its
    halves; with ``split=True`` the result may come as such a pair, for the unit that follows.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, kernel_size: int = 3, act: str = "relu"
    ) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"ShuffleUnit: stride must be 1 or 2, got {stride}")
        if out_channels % 2 or (stride == 1 and in_channels != out_channels):
            raise ValueError(
                "ShuffleUnit: out_channels must be even, and equal to in_channels at stride 1, "
                f"got in_channels={in_channels}, out_channels={out_channels}, stride={stride}"
            )
        self.stride = stride
        half, padding = out_channels // 2, same_padding(kernel_size, 1)

        def depthwise(channels: int) -> list[nn.Module]:
            conv = nn.Conv2d(channels, channels, kernel_size, stride, padding, groups=channels, bias=False)
            return [conv, nn.BatchNorm2d(channels)]

        def pointwise(c_in: int) -> list[nn.Module]:
            return [nn.Conv2d(c_in, half, 1, bias=False), nn.BatchNorm2d(half), create_activation(act, inplace=True)]

        self.branch1: Any = FusedSequential(*(depthwise(in_channels) + pointwise(in_channels) if stride == 2 else []))
        self.branch2: Any = FusedSequential(
            *pointwise(in_channels if stride == 2 else half), *depthwise(half), *pointwise(half)
        )

    @classmethod
    def from_branches(cls, branch1: FusedSequential, branch2: FusedSequential) -> Self:
        """Around existing branches, which are shared, not copied; without children in ``branch1`` it is the unit of stride 1."""
        new = cls.__new__(cls)
        nn.Module.__init__(new)
        new.branch1, new.branch2, new.stride = branch1, branch2, 2 if len(branch1) else 1
        return new

    def forward(self, x: Tensor | tuple[Tensor, Tensor], split: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        y = shuffle_stage([(self.branch1, self.branch2)], x)
        if y is not None:
            return y
        if self.stride == 1:
            left, right = x if isinstance(x, tuple) else x.chunk(2, dim=1)
        else:
            left = right = torch.cat(x, dim=1) if isinstance(x, tuple) else x
        left, right = self.branch1(left), self.branch2(right)
        if split:
            return ops.concat_shuffle_split(left, right, 2)
        return ops.channel_shuffle(torch.cat((left, right), dim=1), 2)


class ShuffleStage(nn.Sequential):
    """``ShuffleUnit``s one after the other, as one call where nobody looks at a unit.

    Elsewhere units hand the two halves of their channels to each other, so that no unit has to split or join them.
    """

    def forward(self, x: Any) -> Any:
        *units, last = self
        if all(_unit.untouched(unit, ShuffleUnit) for unit in self):
            y = shuffle_stage([(unit.branch1, unit.branch2) for unit in self], x)
            if y is not None:
                return y
        for unit in units:
            x = unit(x, split=True)
        return last(x)

    def _plan(self, x: Tensor) -> Plan | None:
        if not all(_unit.untouched(unit, ShuffleUnit) for unit in self):
            return None
        plan = stage_plan([(unit.branch1, unit.branch2) for unit in self], x)
        if plan is not None:
            plan.snapshot.add(snapshot_of(self))
        return plan


class SqueezeExcite(Squeeze):
    """``x * gate(fc2(act(fc1(mean of x over H and W))))``: Hu et al. 2017, arXiv:1709.01507; torchvision's keys.

    channels: of x.  squeeze_channels: of the middle layer.  act, gate: names; gate is "sigmoid" or "hard_sigmoid".
    fc1 and fc2 are 1x1 convolutions; names: what they are called instead.
    As one op (``ops.squeeze_excite``) unless a child has hooks or another class.
    """

    def __init__(
        self,
        channels: int,
        squeeze_channels: int,
        act: str = "relu",
        gate: str = "sigmoid",
        bias: bool = True,
        names: tuple[str, str] = ("fc1", "fc2"),
    ) -> None:
        super().__init__()
        if gate not in ("sigmoid", "hard_sigmoid"):
            raise ValueError(f"SqueezeExcite: gate must be sigmoid or hard_sigmoid, got {gate!r}")
        self.avgpool: Any = nn.AdaptiveAvgPool2d(1)
        self._names, self.squeeze_channels = names, squeeze_channels
        self.add_module(names[0], nn.Conv2d(channels, squeeze_channels, 1, bias=bias))
        self.add_module(names[1], nn.Conv2d(squeeze_channels, channels, 1, bias=bias))
        self.activation: Any = create_activation(act)
        self.scale_activation: Any = create_activation(gate)

    def parts(self) -> tuple[Any, Any, str, str] | None:
        """The two layers and the names of the activations, or None where a child has to be called as a module."""
        children: dict[str, Any] = self._modules
        fc1, fc2 = (children[name] for name in self._names)
        act, gate = activation_name(self.activation), activation_name(self.scale_activation)
        if (
            act is not None
            and gate in ("sigmoid", "hard_sigmoid")
            and _unit.untouched(self.avgpool, nn.AdaptiveAvgPool2d)
            and _unit.fully_readable(fc1)
            and _unit.fully_readable(fc2)
            and _unit.untouched(self.activation, type(self.activation))
            and _unit.untouched(self.scale_activation, type(self.scale_activation))
        ):
            return fc1, fc2, act, gate
        return None

    def forward(self, x: Tensor) -> Tensor:
        parts = self.parts() if _unit.ordinary_call(x) else None
        if parts is None:
            fc1, fc2 = (self._modules[name] for name in self._names)
            return x * self.scale_activation(fc2(self.activation(fc1(self.avgpool(x)))))  # type: ignore[misc]
        fc1, fc2, act, gate = parts
        w1, w2 = fc1.weight.flatten(1), fc2.weight.flatten(1)
        return ops.squeeze_excite(x, w1, fc1.bias, w2, fc2.bias, act=act, gate=gate)
