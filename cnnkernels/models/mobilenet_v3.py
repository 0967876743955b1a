"""MobileNetV3: Howard et al. 2019, arXiv:1905.02244, tables 1 and 2; torchvision's parameter names.

As torchvision has it, the layers after the pooling are linear ones (1x1 convolutions in the paper: the same sums).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from cnnkernels.models.mobile import initialise_layer, round_channels
from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import Linear, MBConv, conv_bn_act

# kernel_size, hidden channels, channels, squeeze-and-excitation, activation, stride
_Block = tuple[int, int, int, bool, str, int]
_LARGE: tuple[_Block, ...] = (
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hard_swish", 2),
    (3, 200, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 480, 112, True, "hard_swish", 1),
    (3, 672, 112, True, "hard_swish", 1),
    (5, 672, 160, True, "hard_swish", 2),
    (5, 960, 160, True, "hard_swish", 1),
    (5, 960, 160, True, "hard_swish", 1),
)
_SMALL: tuple[_Block, ...] = (
    (3, 16, 16, True, "relu", 2),
    (3, 72, 24, False, "relu", 2),
    (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hard_swish", 2),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 120, 48, True, "hard_swish", 1),
    (5, 144, 48, True, "hard_swish", 1),
    (5, 288, 96, True, "hard_swish", 2),
    (5, 576, 96, True, "hard_swish", 1),
    (5, 576, 96, True, "hard_swish", 1),
)
_TAIL = 3  # blocks from the last stride on: those that reduced_tail and dilated change
_BATCH_NORM: dict[str, Any] = {"eps": 1e-3, "momentum": 0.01}


class MobileNetV3(Network):
    """Stem, inverted residuals, 1x1 convolution, pooling, linear layer, dropout, linear layer.

    blocks: (kernel_size, hidden channels, channels, whether to squeeze, activation, stride) of each.
    last: width of the layer before the last one.
    width_mult: of all channels, rounded to multiples of 8.
    reduced_tail: half the channels from the last stride on, and half of ``last`` (for detection and segmentation).
    dilated: the last stride is 1 and the convolutions from there on have dilation 2 (segmentation).

    Arguments and results else as in ``Network``.
    """

    last_layer = "classifier.3"

    def __init__(
        self,
        blocks: Sequence[_Block],
        last: int,
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.2,
        width_mult: float = 1.0,
        reduced_tail: bool = False,
        dilated: bool = False,
        **kw: Any,
    ) -> None:
        super().__init__()
        channels, stride = round_channels(16 * width_mult), 2
        features: list[nn.Module] = [conv_bn_act(in_chans, channels, 3, 2, act="hard_swish", **_BATCH_NORM)]
        shapes = [(channels, stride)]
        for i, (kernel_size, hidden, out, squeeze, act, block_stride) in enumerate(blocks):
            dilation = 1
            if i >= len(blocks) - _TAIL:
                if reduced_tail:  # the first of the tail still widens channels that are not reduced
                    out, hidden = out // 2, hidden if i == len(blocks) - _TAIL else hidden // 2
                if dilated:
                    block_stride, dilation = 1, 2
            hidden, out = round_channels(hidden * width_mult), round_channels(out * width_mult)
            stride *= block_stride
            block = MBConv(
                channels,
                hidden,
                out,
                kernel_size,
                block_stride,
                dilation,
                act,
                squeeze_channels=round_channels(hidden // 4) if squeeze else 0,
                gate="hard_sigmoid",
                **_BATCH_NORM,
            )
            features.append(block)
            channels = out
            shapes.append((channels, stride))
        features.append(conv_bn_act(channels, 6 * channels, 1, act="hard_swish", **_BATCH_NORM))
        self.features = nn.Sequential(*features)
        last = round_channels((last // 2 if reduced_tail else last) * width_mult)
        self.classifier: Any = nn.Sequential(
            Linear(6 * channels, last),
            nn.Hardswish(inplace=True),
            nn.Dropout(drop_rate, inplace=True),
            self.make_last_layer(last, num_classes),
        )
        self.complete(shapes, features_only=features_only, **kw)

    def initialise(self, name: str, module: nn.Module) -> None:
        initialise_layer(module)

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return list(self.features)


register("mobilenet_v3_large", MobileNetV3, blocks=_LARGE, last=1280, top1=75.2)
register("mobilenet_v3_small", MobileNetV3, blocks=_SMALL, last=1024, top1=67.4)
