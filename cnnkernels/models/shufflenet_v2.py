"""ShuffleNetV2: Ma, Zhang, Zheng, Sun 2018, arXiv:1807.11164, table 5; torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import MaxPool2d, ShuffleStage, ShuffleUnit, conv_bn_act

_UNITS = (4, 8, 4)  # stages 2 to 4


def initialise_layer(module: nn.Module, first: bool) -> None:
    """Initial weights of both ShuffleNets as in the authors' code, megvii-model/ShuffleNet-Series."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0, 0.01 if first else 1 / module.weight.shape[1])
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.constant_(module.bias, 1e-4)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)


class ShuffleNetV2(Network):
    """Stem, max pooling, three stages of units, 1x1 convolution, pooling, one linear layer.

    widths: channels of the stages and of the last convolution.  Arguments and results else as in ``Network``.
    """

    last_layer = "fc"

    def __init__(
        self,
        widths: Sequence[int],
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.0,
        **kw: Any,
    ) -> None:
        super().__init__()
        channels, shapes = 24, [(24, 2), (24, 4)]
        self.conv1: Any = conv_bn_act(in_chans, channels, 3, 2, act="relu")
        self.maxpool: Any = MaxPool2d(3, 2, 1)
        *stage_widths, last = widths
        for stage, (units, width) in enumerate(zip(_UNITS, stage_widths, strict=True), 2):
            first = ShuffleUnit(channels, width, 2)
            rest = [ShuffleUnit(width, width) for _ in range(units - 1)]
            self.add_module(f"stage{stage}", ShuffleStage(first, *rest))
            channels = width
            shapes.append((channels, 2 << stage))
        self.conv5: Any = conv_bn_act(channels, last, 1, act="relu")
        self.drop_rate = drop_rate
        self.fc: Any = self.make_last_layer(last, num_classes)
        self.complete(shapes, features_only=features_only, **kw)

    def initialise(self, name: str, module: nn.Module) -> None:
        initialise_layer(module, first=name == "conv1.0")

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return [child for name, child in self._modules.items() if name not in self._head()]  # type: ignore[misc]


register("shufflenet_v2_x0_5", ShuffleNetV2, widths=(48, 96, 192, 1024), top1=60.3)
register("shufflenet_v2_x1_0", ShuffleNetV2, widths=(116, 232, 464, 1024), top1=69.4)
register("shufflenet_v2_x1_5", ShuffleNetV2, widths=(176, 352, 704, 1024), top1=72.6)
register("shufflenet_v2_x2_0", ShuffleNetV2, widths=(244, 488, 976, 2048), top1=74.9)
