"""Stacked hourglass: Newell, Yang, Deng 2016, arXiv:1603.06937, figures 3 and 4; sizes as in the authors' Torch code.

One residual module wherever figure 3 has one, 256 channels throughout, 64 x 64 heat maps of 256 x 256 images.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cnnkernels.models.network import SwitchedNetwork
from cnnkernels.models.pose_network import STRIDE, check_image
from cnnkernels.models.registry import register
from cnnkernels.nn import ConvBNAct, FusedBlock, MaxPool2d
from cnnkernels.nn.sequential import plus

WIDTH = 256
DEPTH = 4
"""Halvings of an hourglass: from 64 x 64 to 4 x 4."""


class Residual(FusedBlock):
    """1x1, 3x3 and 1x1 convolution, each behind BatchNorm and ReLU, and the shortcut: figure 4, left.

    x: [N, channels, H, W], returns [N, out, H, W].  The convolutions have biases; the shortcut has a 1x1 convolution
    where the numbers of channels differ.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out // 2, 1)
        self.bn2 = nn.BatchNorm2d(out // 2)
        self.conv2 = nn.Conv2d(out // 2, out // 2, 3, 1, 1)
        self.bn3 = nn.BatchNorm2d(out // 2)
        self.conv3 = nn.Conv2d(out // 2, out, 1)
        self.relu = nn.ReLU(inplace=True)
        self.skip_layer: Any = None if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.skip_layer is None else self.skip_layer(x)
        y = self.fused(x, None, "bn1", "relu")
        y = self.fused(y, "conv1", "bn2", "relu")
        y = self.fused(y, "conv2", "bn3", "relu")
        return self.fused(y, "conv3", residual=shortcut)


class Hourglass(nn.Module):
    """A residual module at full resolution, added to what lower resolutions return: figure 3.

    x: [N, channels, H, W] with multiples of ``2 ** depth``, returns the same shape.  low2: an hourglass of one halving
    less, at last a residual module.
    """

    def __init__(self, depth: int, channels: int) -> None:
        super().__init__()
        self.up1 = Residual(channels, channels)
        self.pool1 = MaxPool2d(2, 2)
        self.low1 = Residual(channels, channels)
        self.low2 = Hourglass(depth - 1, channels) if depth > 1 else Residual(channels, channels)
        self.low3 = Residual(channels, channels)
        self.up2 = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        lower = self.low3(self.low2(self.low1(self.pool1(x))))
        return plus(self.up2, lower, self.up1(x))


class StackedHourglass(SwitchedNetwork):
    """Hourglasses one behind the other, each with heat maps of its own, which the next one sees: figure 4, right.

    stacks: hourglasses.  num_classes: key points.  x: [N, in_chans, H, W], H and W multiples of 64: one person, RGB from
    0 to 1.  In training ``model(x)`` returns the heat maps of every hourglass, a list of [N, num_classes, H / 4, W / 4],
    which all have the same target (intermediate supervision); in evaluation those of the last.

    Convolutions start as ``torch.nn`` has them, which is how Torch had them.
    """

    left_out: tuple[str, ...] = ()

    def __init__(self, stacks: int, num_classes: int = 16, in_chans: int = 3) -> None:
        super().__init__()
        if stacks < 1 or num_classes < 1:
            raise ValueError(
                f"StackedHourglass: stacks and num_classes must be at least 1, got {stacks} and {num_classes}"
            )
        self.backend, self.num_classes = None, num_classes
        self.pre = nn.Sequential(
            ConvBNAct(in_chans, 64, 7, 2, padding=3, bias=True),
            Residual(64, 128),
            MaxPool2d(2, 2),
            Residual(128, 128),
            Residual(128, WIDTH),
        )
        self.hgs = nn.ModuleList(Hourglass(DEPTH, WIDTH) for _ in range(stacks))
        self.features = nn.ModuleList(
            nn.Sequential(Residual(WIDTH, WIDTH), ConvBNAct(WIDTH, WIDTH, 1, bias=True)) for _ in range(stacks)
        )
        self.outs = nn.ModuleList(nn.Conv2d(WIDTH, num_classes, 1) for _ in range(stacks))
        self.merge_features = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 1) for _ in range(stacks - 1))
        self.merge_preds = nn.ModuleList(nn.Conv2d(num_classes, WIDTH, 1) for _ in range(stacks - 1))

    def _forward(self, x: Tensor) -> Tensor | list[Tensor]:
        check_image("StackedHourglass", x, STRIDE << DEPTH)
        heatmaps = self.every_stack(x)
        return heatmaps if self.training else heatmaps[-1]

    def every_stack(self, x: Tensor) -> list[Tensor]:
        """The heat maps of every hourglass."""
        y = self.pre(self._as_computed(x))
        heatmaps = list[Tensor]()
        for i, (hourglass, features, out) in enumerate(zip(self.hgs, self.features, self.outs, strict=True)):
            seen = features(hourglass(y))
            heatmaps.append(out(seen))
            if i < len(self.merge_preds):
                y = y + self.merge_preds[i](heatmaps[-1]) + self.merge_features[i](seen)
        return heatmaps


for _stacks in (1, 2, 8):
    register(f"hourglass_s{_stacks}", StackedHourglass, input_size=256, task="pose", stacks=_stacks)
