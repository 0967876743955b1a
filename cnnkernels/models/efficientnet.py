"""EfficientNet: Tan, Le 2019, arXiv:1905.11946, table 1 and section 4 (compound scaling); torchvision's parameter names.

``tf_efficientnet_*`` are the networks as they were trained with TensorFlow: SAME padding and BatchNorm's eps of 1e-3.
``efficientnet_lite*`` (github.com/tensorflow/tpu, models/official/efficientnet/lite) leave out squeeze-and-excitation,
have ReLU6 for SiLU, and do not scale the first and the last layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from cnnkernels.models.mobile import round_channels
from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import Conv2dSame, MBConv, conv_bn_act

# expand_ratio, kernel_size, channels, blocks, stride of the first block
_STAGES = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)


class EfficientNet(Network):
    """Stem, seven stages of ``MBConv``, 1x1 convolution, pooling, dropout, one linear layer.

    width_mult: of all channels, rounded to multiples of 8.  depth_mult: of the blocks per stage, rounded up.
    drop_path_rate: of the last block's stochastic depth (nearly; torchvision's rule); it grows from 0 with the depth.
    lite: no squeeze-and-excitation, ReLU6, first and last layers and stages not scaled.
    same_padding: as TensorFlow pads, see ``Conv2dSame``.
    bn_eps, bn_momentum: of every BatchNorm.

    Arguments and results else as in ``Network``.
    """

    last_layer = "classifier.1"

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.2,
        drop_path_rate: float = 0.2,
        width_mult: float = 1.0,
        depth_mult: float = 1.0,
        lite: bool = False,
        same_padding: bool = False,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.1,
        **kw: Any,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {
            "act": "relu6" if lite else "silu",
            "conv": Conv2dSame if same_padding else nn.Conv2d,
            "eps": bn_eps,
            "momentum": bn_momentum,
        }
        ends_width = 1.0 if lite else width_mult
        blocks = [math.ceil(n * depth_mult) for _, _, _, n, _ in _STAGES]
        if lite:
            blocks[0], blocks[-1] = _STAGES[0][3], _STAGES[-1][3]
        channels, stride = round_channels(32 * ends_width), 2
        features: list[nn.Module] = [conv_bn_act(in_chans, channels, 3, 2, **options)]
        shapes, made = [(channels, stride)], 0
        for (expand_ratio, kernel_size, width, _, first_stride), n in zip(_STAGES, blocks, strict=True):
            out, stage = round_channels(width * width_mult), []
            for i in range(n):
                block = MBConv(
                    channels,
                    round_channels(channels * expand_ratio),
                    out,
                    kernel_size,
                    first_stride if i == 0 else 1,
                    squeeze_channels=0 if lite else max(1, channels // 4),
                    squeeze_act="silu",
                    drop_path=drop_path_rate * made / sum(blocks),
                    **options,
                )
                stage.append(block)
                channels, made = out, made + 1
            features.append(nn.Sequential(*stage))
            stride *= first_stride
            shapes.append((channels, stride))
        last = round_channels(1280 * ends_width)
        features.append(conv_bn_act(channels, last, 1, **options))
        self.features = nn.Sequential(*features)
        self.classifier: Any = nn.Sequential(
            nn.Dropout(drop_rate, inplace=True), self.make_last_layer(last, num_classes)
        )
        self.complete(shapes, features_only=features_only, **kw)

    def initialise(self, name: str, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = module.out_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound)
            nn.init.zeros_(module.bias)

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return list(self.features)


_tf: dict[str, Any] = {"same_padding": True, "bn_eps": 1e-3}
# width_mult, depth_mult, input_size, drop_rate, top1: the paper's
_SCALES = (
    (1.0, 1.0, 224, 0.2, 77.1),
    (1.0, 1.1, 240, 0.2, 79.1),
    (1.1, 1.2, 260, 0.3, 80.1),
    (1.2, 1.4, 300, 0.3, 81.6),
    (1.4, 1.8, 380, 0.4, 82.9),
    (1.6, 2.2, 456, 0.4, 83.6),
    (1.8, 2.6, 528, 0.5, 84.0),
    (2.0, 3.1, 600, 0.5, 84.3),
)
for _i, (_width, _depth, _size, _drop, _top1) in enumerate(_SCALES):
    _scale: dict[str, Any] = {"width_mult": _width, "depth_mult": _depth, "drop_rate": _drop}
    _large: dict[str, Any] = {"bn_eps": 1e-3, "bn_momentum": 0.01} if _i >= 5 else {}
    # torchvision evaluates b2 at 288, and its counts are for that.
    _tv_size = 288 if _i == 2 else _size
    register(f"efficientnet_b{_i}", EfficientNet, input_size=_tv_size, top1=_top1, **_scale, **_large)
    register(f"tf_efficientnet_b{_i}", EfficientNet, input_size=_size, top1=_top1, **_scale, **_tf)

# The same, from the networks' own page.
_LITE_SCALES = (
    (1.0, 1.0, 224, 0.2, 75.1),
    (1.0, 1.1, 240, 0.2, 76.7),
    (1.1, 1.2, 260, 0.3, 77.6),
    (1.2, 1.4, 280, 0.3, 79.8),
    (1.4, 1.8, 300, 0.3, 81.5),
)
for _i, (_width, _depth, _size, _drop, _top1) in enumerate(_LITE_SCALES):
    _scale = {"width_mult": _width, "depth_mult": _depth, "drop_rate": _drop}
    register(f"efficientnet_lite{_i}", EfficientNet, input_size=_size, top1=_top1, lite=True, **_scale)
    register(f"tf_efficientnet_lite{_i}", EfficientNet, input_size=_size, top1=_top1, lite=True, **_scale, **_tf)
