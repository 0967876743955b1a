"""MobileNet: Howard et al. 2017, arXiv:1704.04861, table 1; parameter names of pytorchcv's MobileNet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import ConvBNAct, DWConvBNAct

# channels after each depthwise separable convolution, by stage; from the second stage on the first one has stride 2
_STAGES = ((64,), (128, 128), (256, 256), (512, 512, 512, 512, 512, 512), (1024, 1024))


class MobileNetV1(Network):
    """Stem, 13 depthwise separable convolutions, pooling, one linear layer.

    width_mult: of all channels (the paper's alpha).
    act: "relu" in the paper; TensorFlow's and timm's networks have "relu6".
    Arguments and results else as in ``Network``.
    """

    last_layer = "output"

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.0,
        width_mult: float = 1.0,
        act: str = "relu",
        **kw: Any,
    ) -> None:
        super().__init__()
        channels, stride = int(32 * width_mult), 2
        features: OrderedDict[str, nn.Module] = OrderedDict(
            init_block=ConvBNAct(in_chans, channels, 3, stride=2, act=act)
        )
        shapes = [(channels, stride)]
        for stage, widths in enumerate(_STAGES, 1):
            units: OrderedDict[str, nn.Module] = OrderedDict()
            for i, width in enumerate(widths, 1):
                first_stride = 2 if stage > 1 and i == 1 else 1
                stride, out = stride * first_stride, int(width * width_mult)
                depthwise = DWConvBNAct(channels, 3, first_stride, act=act)
                pointwise = ConvBNAct(channels, out, 1, act=act)
                units[f"unit{i}"] = nn.Sequential(OrderedDict(dw_conv=depthwise, pw_conv=pointwise))
                channels = out
            features[f"stage{stage}"] = nn.Sequential(units)
            shapes.append((channels, stride))
        self.features = nn.Sequential(features)
        self.drop_rate = drop_rate
        self.output: Any = self.make_last_layer(channels, num_classes)
        self.complete(shapes, features_only=features_only, **kw)

    def initialise(self, name: str, module: nn.Module) -> None:
        """As the authors' code (TF-slim): normal of deviation 0.09, cut off at two deviations."""
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, 0, 0.09, -0.18, 0.18)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return list(self.features)


register("mobilenet_v1", MobileNetV1, top1=70.6)
register("mobilenet_v1_075", MobileNetV1, width_mult=0.75, top1=68.4)
register("mobilenet_v1_050", MobileNetV1, width_mult=0.5, top1=63.7)
register("mobilenet_v1_025", MobileNetV1, width_mult=0.25, top1=50.6)
