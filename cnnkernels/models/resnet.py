"""ResNet: He, Zhang, Ren, Sun 2015, arXiv:1512.03385, table 1; torchvision's parameter names.

As torchvision has it, a bottleneck halves the resolution in its 3x3 convolution ("v1.5"); the paper does in the first
1x1 convolution.  With groups in that 3x3 convolution it is ResNeXt: Xie, Girshick, Dollar, Tu, He 2016,
arXiv:1611.05431, figure 3 (c).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import FusedBlock, FusedSequential, MaxPool2d


class _Residual(FusedBlock):
    """What the blocks share: ``relu(attention(bn(conv(x))) + shortcut)`` at their end.

    The attention is an optional child under the name that its checkpoints have; it is put into the finished block.
    """

    attention: str | None = None
    """Name of that child."""
    downsample: Any
    relu: Any

    def add_attention(self, name: str, module: nn.Module) -> None:
        """module: [N, C, H, W] -> the same, on all the channels that the block returns."""
        self.attention = name
        self.add_module(name, module)

    def _shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)

    def _end(self, x: Tensor, conv: str, bn: str, shortcut: Tensor) -> Tensor:
        if self.attention is None:
            return self.fused(x, conv, bn, "relu", shortcut=shortcut)
        attention: Any = self._modules[self.attention]
        return self.relu(attention(self.fused(x, conv, bn)).add_(shortcut))


class BasicBlock(_Residual):
    """Two 3x3 convolutions and the shortcut: figure 5, left.  x: [N, in_channels, H, W], returns width channels."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self._shortcut(x)
        return self._end(self.fused(x, "conv1", "bn1", "relu"), "conv2", "bn2", shortcut)


class Bottleneck(_Residual):
    """1x1, 3x3 and 1x1 convolution and the shortcut: figure 5, right.  Returns 4 * width channels.

    groups: of the 3x3 convolution.  width_per_group: channels of one of them for width = 64, in proportion else.
    """

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        downsample: nn.Module | None,
        groups: int = 1,
        width_per_group: int = 64,
    ) -> None:
        super().__init__()
        (first, second), out = self.widths(width, groups, width_per_group), self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, first, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(second)
        self.conv3 = nn.Conv2d(second, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    @staticmethod
    def widths(width: int, groups: int, width_per_group: int) -> tuple[int, int]:
        """Channels that the first and the second convolution return."""
        inner = width * width_per_group // 64 * groups
        return inner, inner

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self._shortcut(x)
        x = self.fused(x, "conv1", "bn1", "relu")
        return self._end(self.fused(x, "conv2", "bn2", "relu"), "conv3", "bn3", shortcut)


class ResNetTrunk(Network):
    """7x7 stem, max pooling and stages of residual blocks, for networks with a head of their own.

    ``add_trunk`` in the constructor adds the children; ``steps`` runs them.
    """

    stem_channels: ClassVar[int] = 64
    downsample_kernel: ClassVar[int] = 1
    """Kernel of the shortcut's convolution where the stride is 2."""

    def add_trunk(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        in_chans: int,
        groups: int = 1,
        width_per_group: int = 64,
    ) -> list[tuple[int, int]]:
        """Adds the children; returns (channels, stride) after every step.  Arguments as in ``ResNet``."""
        inner = {} if (groups, width_per_group) == (1, 64) else {"groups": groups, "width_per_group": width_per_group}
        if inner and not issubclass(block, Bottleneck):
            raise ValueError(
                f"{type(self).__name__}: {block.__name__} has no groups; got groups={groups}, "
                f"width_per_group={width_per_group}"
            )
        self.add_stem(in_chans)
        channels = self.stem_channels
        shapes = [(channels, 2), (channels, 4)]
        self._stages = tuple(f"layer{stage + 1}" for stage in range(len(layers)))
        for stage, blocks in enumerate(layers):
            width, stride = 64 << stage, 1 if stage == 0 else 2
            children = []
            for _ in range(blocks):
                downsample = self._downsample(channels, width * block.expansion, stride)
                children.append(block(channels, width, stride, downsample, **inner))
                channels, stride = width * block.expansion, 1
                self.complete_block(children[-1], channels)
            self.add_module(self._stages[stage], nn.Sequential(*children))
            shapes.append((channels, 4 << stage))
        return shapes

    def _downsample(self, channels: int, out: int, stride: int) -> nn.Module | None:
        if stride == 1 and channels == out:
            return None
        kernel = 1 if stride == 1 else self.downsample_kernel
        return FusedSequential(nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out))

    def add_stem(self, in_chans: int) -> None:
        """The children before the stages."""
        self.conv1 = nn.Conv2d(in_chans, self.stem_channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(self.stem_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = MaxPool2d(3, 2, 1)

    def complete_block(self, block: BasicBlock | Bottleneck, channels: int) -> None:
        """For networks whose blocks have an attention; channels: what the block returns."""

    def initialise(self, name: str, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stem(self, x: Tensor) -> Tensor:
        return self.fused(x, "conv1", "bn1", "relu")

    def stem(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """The steps before the stages: to stride 2, and the pooling to stride 4."""
        return [self._stem, self.maxpool]

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        stages = [self._modules[name] for name in self._stages if name in self._modules]
        return [*self.stem(), *stages]  # type: ignore[list-item]


class ResNet(ResNetTrunk):
    """The trunk with four stages, pooling, one linear layer.

    block: ``BasicBlock`` or ``Bottleneck``.  layers: blocks per stage.  groups, width_per_group: of ``Bottleneck``.
    Arguments and results else as in ``Network``.
    """

    last_layer = "fc"

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.0,
        groups: int = 1,
        width_per_group: int = 64,
        **kw: Any,
    ) -> None:
        super().__init__()
        shapes = self.add_trunk(block, layers, in_chans, groups, width_per_group)
        self.drop_rate = drop_rate
        self.add_module(self.last_layer, self.make_last_layer(shapes[-1][0], num_classes))
        self.complete(shapes, features_only=features_only, **kw)


register("resnet18", ResNet, block=BasicBlock, layers=(2, 2, 2, 2), top1=72.1)
register("resnet34", ResNet, block=BasicBlock, layers=(3, 4, 6, 3), top1=75.5)
register("resnet50", ResNet, block=Bottleneck, layers=(3, 4, 6, 3), top1=75.3)
register("resnet101", ResNet, block=Bottleneck, layers=(3, 4, 23, 3), top1=76.4)
register("resnet152", ResNet, block=Bottleneck, layers=(3, 8, 36, 3), top1=77.0)
register("resnext50_32x4d", ResNet, block=Bottleneck, layers=(3, 4, 6, 3), groups=32, width_per_group=4, top1=77.8)
register("resnext101_32x8d", ResNet, block=Bottleneck, layers=(3, 4, 23, 3), groups=32, width_per_group=8, top1=79.3)
register("resnext101_64x4d", ResNet, block=Bottleneck, layers=(3, 4, 23, 3), groups=64, width_per_group=4, top1=79.6)
