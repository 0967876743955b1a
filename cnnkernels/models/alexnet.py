"""AlexNet: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997.

torchvision's form and parameter names: one tower, 64 first filters, no local response normalisation; the network of 2012
(Krizhevsky, Sutskever, Hinton, NIPS 2012) had two towers on two GPUs and 96.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import FusedSequential, Linear, MaxPool2d


class AlexNet(Network):
    """Five convolutions, three max poolings, two hidden linear layers with dropout.  At least 63 x 63 pixels.

    Feature maps: before every pooling, and the last pooled one.  Arguments and results else as in ``Network``.
    """

    last_layer = "classifier.6"
    head = ("avgpool", "classifier")

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.5,
        **kw: Any,
    ) -> None:
        super().__init__()
        self.features = FusedSequential(
            nn.Conv2d(in_chans, 64, 11, 4, 2),
            nn.ReLU(inplace=True),
            MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier: Any = nn.Sequential(
            nn.Dropout(drop_rate),
            Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(drop_rate),
            Linear(4096, 4096),
            nn.ReLU(inplace=True),
            self.make_last_layer(4096, num_classes),
        )
        self.complete([(64, 4), (192, 8), (256, 16), (256, 32)], features_only=features_only, **kw)

    def initialise(self, name: str, module: nn.Module) -> None:
        """As torch makes the layers; the paper's N(0, 0.01) does not train without its other settings."""

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        part = self.features.part
        return [part(0, 2), part(2, 5), part(5, 12), part(12, 13)]

    def forward_head(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(x).flatten(1))


register("alexnet", AlexNet, top1=59.3)
