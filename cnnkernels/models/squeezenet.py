"""SqueezeNet: Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer 2016, arXiv:1602.07360; torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import Fire, FusedSequential, MaxPool2d


class SqueezeNet(Network):
    """A convolution, eight fire modules between three max poolings, and a 1x1 convolution for a classifier.

    version: "1_0" (table 1 of the paper), or "1_1": a smaller stem and earlier pooling, 2.4 times fewer multiply-adds.
    Feature maps: before every pooling, and the last.  Arguments and results else as in ``Network``.
    """

    last_layer = "classifier.1"

    def __init__(
        self,
        version: str = "1_0",
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.5,
        **kw: Any,
    ) -> None:
        super().__init__()
        if version not in ("1_0", "1_1"):
            raise ValueError(f"SqueezeNet: version must be 1_0 or 1_1, got {version!r}")
        first = version == "1_0"
        channels = 96 if first else 64
        pooled = (3, 7) if first else (2, 4)  # pooling stands before these fire modules
        features: list[nn.Module] = [
            nn.Conv2d(in_chans, channels, 7 if first else 3, 2),
            nn.ReLU(inplace=True),
            MaxPool2d(3, 2, ceil_mode=True),
        ]
        ends, shapes = [0, 2], [(channels, 2)]
        for i, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
            if i in pooled:
                ends.append(len(features))
                shapes.append((channels, 2 * shapes[-1][1]))
                features.append(MaxPool2d(3, 2, ceil_mode=True))
            features.append(Fire(channels, squeeze, 4 * squeeze, 4 * squeeze))
            channels = 8 * squeeze
        self._ends = (*ends, len(features))
        self.features = FusedSequential(*features)
        self.classifier: Any = FusedSequential(
            nn.Dropout(drop_rate),
            self.make_last_layer(channels, num_classes),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d((1, 1)),
        )
        self.complete([*shapes, (channels, 2 * shapes[-1][1])], features_only=features_only, **kw)

    def _classifier(self, num_features: int, num_classes: int) -> nn.Module:
        return nn.Conv2d(num_features, num_classes, 1)

    def initialise(self, name: str, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            if name == self.last_layer:
                nn.init.normal_(module.weight, 0, 0.01)
            else:
                nn.init.kaiming_uniform_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return [self.features.part(a, b) for a, b in zip(self._ends, self._ends[1:], strict=False)]

    def forward_head(self, x: Tensor) -> Tensor:
        return self.classifier(x).flatten(1)


register("squeezenet1_0", SqueezeNet, version="1_0", top1=57.5)
register("squeezenet1_1", SqueezeNet, version="1_1", top1=57.5)
