"""MobileNetV2: Sandler, Howard, Zhu, Zhmoginov, Chen 2018, arXiv:1801.04381, table 2; torchvision's parameter names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.models.registry import register
from cnnkernels.nn import InvertedResidual, conv_bn_act

# expand_ratio, channels, blocks, stride of the first block
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of divisor that is not more than 10 % below."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class MobileNetV2(nn.Module):
    """Stem, 17 inverted residuals, 1x1 convolution, pooling, dropout, one linear layer.

    x: [N, in_chans, H, W], normalised; H and W multiples of 32 give maps of exactly H/32.
    Returns logits [N, num_classes], or with ``features_only`` the maps at strides 4, 8, 16 and 32.

    Between input and logits, activations are channels_last on a CPU, where convolutions are faster so.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        width_mult: float = 1.0,
        dropout: float = 0.2,
        features_only: bool = False,
    ) -> None:
        super().__init__()
        channels = round_channels(32 * width_mult)
        features: list[nn.Module] = [conv_bn_act(in_chans, channels, 3, stride=2)]
        stride, ends = 2, []
        for expand_ratio, width, blocks, first_stride in _STAGES:
            if first_stride == 2 and stride > 2:
                ends.append((len(features) - 1, channels, stride))
            stride *= first_stride
            for i in range(blocks):
                out = round_channels(width * width_mult)
                features.append(InvertedResidual(channels, out, first_stride if i == 0 else 1, expand_ratio))
                channels = out
        ends.append((len(features) - 1, channels, stride))
        last = round_channels(1280 * max(1.0, width_mult))
        if not features_only:
            features.append(conv_bn_act(channels, last, 1))
        self.features = nn.Sequential(*features)
        self.classifier: Any = (
            None if features_only else nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))
        )
        self._ends = {i for i, _, _ in ends} if features_only else set()
        self.channels = [c for _, c, _ in ends]
        """Of the feature maps."""
        self.strides = [s for _, _, s in ends]
        self.left_out = ("classifier.", f"features.{len(features)}.") if features_only else ()
        """Beginnings of the checkpoint keys that a ``features_only`` network has no use for."""
        self._initialise()

    def _initialise(self) -> None:
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out")
            elif isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, 0, 0.01)
                nn.init.zeros_(m.bias)

    def forward(self, x: Tensor) -> Any:
        if x.device.type == "cpu" and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        if self.classifier is None:
            maps = []
            for i, block in enumerate(self.features):
                x = block(x)
                if i in self._ends:
                    maps.append(x)
            return maps
        x = self.features(x).mean((2, 3))
        return self.classifier(x)


@register
def mobilenet_v2(**kw: Any) -> MobileNetV2:
    """MobileNetV2 1.0: 3,504,872 parameters, 0.301 GMAC at 224; 72.0 % top-1 on ImageNet (paper)."""
    return MobileNetV2(**kw)
