"""VGG: Simonyan, Zisserman 2014, arXiv:1409.1556, table 1; torchvision's parameter names.

The networks with ``_bn`` have a BatchNorm after every convolution, which the paper had not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import FusedSequential, Linear, MaxPool2d

_WIDTHS = (64, 128, 256, 512, 512)


class VGG(Network):
    """Five groups of 3x3 convolutions with max pooling after each, two hidden linear layers with dropout.

    layers: convolutions per group.  batch_norm: one after each of them.
    Feature maps: before every pooling (strides 1 to 16), and the last pooled one.  Arguments else as in ``Network``.
    """

    last_layer = "classifier.6"
    head = ("avgpool", "classifier")

    def __init__(
        self,
        layers: Sequence[int],
        batch_norm: bool = False,
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.5,
        **kw: Any,
    ) -> None:
        super().__init__()
        features: list[nn.Module] = []
        shapes: list[tuple[int, int]] = []
        ends = [0]
        channels = in_chans
        for group, (convolutions, width) in enumerate(zip(layers, _WIDTHS, strict=True)):
            features += [MaxPool2d(2, 2)] if group else []
            for _ in range(convolutions):
                features.append(nn.Conv2d(channels, width, 3, padding=1))
                features += [nn.BatchNorm2d(width)] if batch_norm else []
                features.append(nn.ReLU(inplace=True))
                channels = width
            ends.append(len(features))
            shapes.append((channels, 1 << group))
        features.append(MaxPool2d(2, 2))
        self._ends = (*ends, len(features))
        self.features = FusedSequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier: Any = nn.Sequential(
            Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(drop_rate),
            Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(drop_rate),
            self.make_last_layer(4096, num_classes),
        )
        self.complete([*shapes, (channels, 32)], features_only=features_only, **kw)

    def initialise(self, name: str, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return [self.features.part(a, b) for a, b in zip(self._ends, self._ends[1:], strict=False)]

    def forward_head(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(x).flatten(1))


for _name, _layers, _top1, _top1_bn in (
    ("vgg11", (1, 1, 2, 2, 2), 70.4, 70.4),
    ("vgg13", (2, 2, 2, 2, 2), 71.3, 71.6),
    ("vgg16", (2, 2, 3, 3, 3), 74.4, 73.4),
    ("vgg19", (2, 2, 4, 4, 4), 74.5, 74.2),
):
    register(_name, VGG, layers=_layers, top1=_top1)
    register(f"{_name}_bn", VGG, layers=_layers, batch_norm=True, top1=_top1_bn)  # torchvision's: the paper has none
