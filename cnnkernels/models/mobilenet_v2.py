"""MobileNetV2: Sandler, Howard, Zhu, Zhmoginov, Chen 2018, arXiv:1801.04381, table 2; torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from cnnkernels.models.mobile import initialise_layer, round_channels
from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import InvertedResidual, conv_bn_act

# expand_ratio, channels, blocks, stride of the first block
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class MobileNetV2(Network):
    """Stem, 17 inverted residuals, 1x1 convolution, pooling, dropout, one linear layer.

    width_mult: of all channels, rounded to multiples of 8.  Arguments and results else as in ``Network``.
    """

    last_layer = "classifier.1"

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.2,
        width_mult: float = 1.0,
        **kw: Any,
    ) -> None:
        super().__init__()
        channels, stride = round_channels(32 * width_mult), 2
        features: list[nn.Module] = [conv_bn_act(in_chans, channels, 3, stride=2)]
        shapes = [(channels, stride)]
        for expand_ratio, width, blocks, first_stride in _STAGES:
            stride *= first_stride
            for i in range(blocks):
                out = round_channels(width * width_mult)
                features.append(InvertedResidual(channels, out, first_stride if i == 0 else 1, expand_ratio))
                channels = out
                shapes.append((channels, stride))
        last = round_channels(1280 * max(1.0, width_mult))
        features.append(conv_bn_act(channels, last, 1))
        self.features = nn.Sequential(*features)
        self.classifier: Any = nn.Sequential(nn.Dropout(drop_rate), self.make_last_layer(last, num_classes))
        self.complete(shapes, features_only=features_only, **kw)

    def initialise(self, name: str, module: nn.Module) -> None:
        initialise_layer(module)

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return list(self.features)


register("mobilenet_v2", MobileNetV2, top1=72.0)
