"""ResNet: He, Zhang, Ren, Sun 2015, arXiv:1512.03385, table 1; torchvision's parameter names.

As torchvision has it, a bottleneck halves the resolution in its 3x3 convolution ("v1.5"); the paper does in the first
1x1 convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import FusedBlock, FusedSequential


class BasicBlock(FusedBlock):
    """Two 3x3 convolutions and the shortcut: figure 5, left.  x: [N, in_channels, H, W]."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: Any = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.fused(x, "conv1", "bn1", "relu")
        return self.fused(x, "conv2", "bn2", "relu", shortcut=shortcut)


class Bottleneck(FusedBlock):
    """1x1, 3x3 and 1x1 convolution and the shortcut: figure 5, right.  Returns 4 * width channels."""

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        out = self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: Any = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.fused(x, "conv1", "bn1", "relu")
        x = self.fused(x, "conv2", "bn2", "relu")
        return self.fused(x, "conv3", "bn3", "relu", shortcut=shortcut)


class ResNet(Network):
    """7x7 stem, max pooling, four stages of residual blocks, pooling, one linear layer.

    block: ``BasicBlock`` or ``Bottleneck``.  layers: blocks per stage.  Arguments and results else as in ``Network``.
    """

    last_layer = "fc"
    head = ("fc",)

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.0,
        **kw: Any,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels, shapes = 64, [(64, 2), (64, 4)]
        for stage, blocks in enumerate(layers):
            width, stride = 64 << stage, 1 if stage == 0 else 2
            out = width * block.expansion
            downsample = None
            if stride != 1 or channels != out:
                downsample = FusedSequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            first = block(channels, width, stride, downsample)
            rest = [block(out, width, 1, None) for _ in range(blocks - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *rest))
            channels = out
            shapes.append((channels, 4 << stage))
        self.drop_rate = drop_rate
        self.fc: Any = self.make_last_layer(channels, num_classes)
        self.complete(shapes, features_only=features_only, **kw)

    def initialise(self, name: str, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stem(self, x: Tensor) -> Tensor:
        return self.fused(x, "conv1", "bn1", "relu")

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        stages = [child for name, child in self._modules.items() if name.startswith("layer")]
        return [self._stem, self.maxpool, *stages]  # type: ignore[list-item]

    def forward_head(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        return self.fc(nn.functional.dropout(x, self.drop_rate, self.training))


register("resnet18", ResNet, block=BasicBlock, layers=(2, 2, 2, 2), top1=72.1)
register("resnet34", ResNet, block=BasicBlock, layers=(3, 4, 6, 3), top1=75.5)
register("resnet50", ResNet, block=Bottleneck, layers=(3, 4, 6, 3), top1=75.3)
register("resnet101", ResNet, block=Bottleneck, layers=(3, 4, 23, 3), top1=76.4)
register("resnet152", ResNet, block=Bottleneck, layers=(3, 8, 36, 3), top1=77.0)
