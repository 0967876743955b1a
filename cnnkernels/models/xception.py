"""Xception: Chollet 2016, arXiv:1610.02357, figure 5; timm's parameter names (``legacy_xception``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import FusedBlock, FusedSequential, MaxPool2d


class SeparableConv2d(FusedBlock):
    """A depthwise 3x3 and a pointwise convolution with nothing between them."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, 1, 1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fused(self.fused(x, "conv1"), "pointwise")


class Block(FusedBlock):
    """ReLU, separable convolution and BatchNorm several times, max pooling at stride 2, and the shortcut.

    grow_first: whether the first convolution brings the channels, or the last.  start_with_relu: not so in the first block.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        repeats: int,
        stride: int = 1,
        start_with_relu: bool = True,
        grow_first: bool = True,
    ) -> None:
        super().__init__()
        self.skip: Any = None
        if stride != 1 or in_channels != out_channels:
            self.skip = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.skipbn = nn.BatchNorm2d(out_channels)
        layers: list[nn.Module] = []
        channels = in_channels
        for i in range(repeats):
            grows = i == 0 if grow_first else i == repeats - 1
            out = out_channels if grows else channels
            if i or start_with_relu:
                layers.append(nn.ReLU(inplace=i > 0))  # the first one's x is the shortcut, too
            layers += [SeparableConv2d(channels, out), nn.BatchNorm2d(out)]
            channels = out
        if stride != 1:
            layers.append(MaxPool2d(3, stride, 1))
        self.rep = FusedSequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.skip is None else self.fused(x, "skip", "skipbn")
        return self.rep(x, residual=shortcut)


class Xception(Network):
    """Two convolutions, twelve blocks of depthwise separable ones, two more, pooling, one linear layer.

    Arguments and results as in ``Network``.
    """

    last_layer = "fc"

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.0,
        **kw: Any,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, 32, 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(32, 64, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.act2 = nn.ReLU(inplace=True)
        self.block1 = Block(64, 128, 2, 2, start_with_relu=False)
        self.block2 = Block(128, 256, 2, 2)
        self.block3 = Block(256, 728, 2, 2)
        for i in range(4, 12):
            self.add_module(f"block{i}", Block(728, 728, 3))
        self.block12 = Block(728, 1024, 2, 2, grow_first=False)
        self.conv3 = SeparableConv2d(1024, 1536)
        self.bn3 = nn.BatchNorm2d(1536)
        self.act3 = nn.ReLU(inplace=True)
        self.conv4 = SeparableConv2d(1536, 2048)
        self.bn4 = nn.BatchNorm2d(2048)
        self.act4 = nn.ReLU(inplace=True)
        self.drop_rate = drop_rate
        self.fc: Any = self.make_last_layer(2048, num_classes)
        shapes = [(64, 2), (128, 4), (256, 8), (728, 16), *[(728, 16)] * 8, (1024, 32), (2048, 32)]
        self.complete(shapes, features_only=features_only, **kw)

    def initialise(self, name: str, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stem(self, x: Tensor) -> Tensor:
        return self.fused(self.fused(x, "conv1", "bn1", "act1"), "conv2", "bn2", "act2")

    def _end(self, x: Tensor) -> Tensor:
        x = self.fused(self.conv3(x), None, "bn3", "act3")
        return self.fused(self.conv4(x), None, "bn4", "act4")

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        blocks = [m for name, m in self._modules.items() if name.startswith("block")]
        return [self._stem, *blocks, self._end]  # type: ignore[list-item]


register("xception", Xception, input_size=299, top1=79.0)
