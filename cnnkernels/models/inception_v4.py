"""Inception v4: Szegedy, Ioffe, Vanhoucke, Alemi 2016, arXiv:1602.07261, figures 3 to 9; timm's parameter names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.models.inception import Branches, branch, conv_bn_relu
from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import MaxPool2d


def _average(channels: int, out_channels: int) -> nn.Module:
    return branch(channels, (out_channels, 1), pool=nn.AvgPool2d(3, 1, 1, count_include_pad=False))


def _a() -> Branches:
    return Branches(
        branch0=branch(384, (96, 1)),
        branch1=branch(384, (64, 1), (96, 3)),
        branch2=branch(384, (64, 1), (96, 3), (96, 3)),
        branch3=_average(384, 96),
    )


def _reduction_a() -> Branches:
    return Branches(
        branch0=branch(384, (384, 3, 2)),
        branch1=branch(384, (192, 1), (224, 3), (256, 3, 2)),
        branch2=MaxPool2d(3, 2),
    )


def _b() -> Branches:
    row, column = (1, 7), (7, 1)
    return Branches(
        branch0=branch(1024, (384, 1)),
        branch1=branch(1024, (192, 1), (224, row), (256, column)),
        branch2=branch(1024, (192, 1), (192, column), (224, row), (224, column), (256, row)),
        branch3=_average(1024, 128),
    )


def _reduction_b() -> Branches:
    return Branches(
        branch0=branch(1024, (192, 1), (192, 3, 2)),
        branch1=branch(1024, (256, 1), (256, (1, 7)), (320, (7, 1)), (320, 3, 2)),
        branch2=MaxPool2d(3, 2),
    )


class InceptionC(nn.Module):
    """Figure 6: two of the branches end in a row and a column beside each other.  [N, 1536, H, W] -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = conv_bn_relu(1536, 256, 1)
        self.branch1_0 = conv_bn_relu(1536, 384, 1)
        self.branch1_1a = conv_bn_relu(384, 256, (1, 3))
        self.branch1_1b = conv_bn_relu(384, 256, (3, 1))
        self.branch2_0 = conv_bn_relu(1536, 384, 1)
        self.branch2_1 = conv_bn_relu(384, 448, (3, 1))
        self.branch2_2 = conv_bn_relu(448, 512, (1, 3))
        self.branch2_3a = conv_bn_relu(512, 256, (1, 3))
        self.branch2_3b = conv_bn_relu(512, 256, (3, 1))
        self.branch3 = _average(1536, 256)

    def forward(self, x: Tensor) -> Tensor:
        one = self.branch1_0(x)
        two = self.branch2_2(self.branch2_1(self.branch2_0(x)))
        ends = (self.branch1_1a(one), self.branch1_1b(one), self.branch2_3a(two), self.branch2_3b(two))
        return torch.cat((self.branch0(x), *ends, self.branch3(x)), dim=1)


class InceptionV4(Network):
    """Stem with parallel branches, 4 + 7 + 3 Inception blocks with reductions between, pooling, dropout, linear layer.

    Images of at least 75 x 75 pixels.  Arguments and results as in ``Network``.
    """

    last_layer = "last_linear"
    head = ("head_drop", "last_linear")

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.2,
        **kw: Any,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn_relu(in_chans, 32, 3, 2, 0),
            conv_bn_relu(32, 32, 3, 1, 0),
            conv_bn_relu(32, 64, 3),
            Branches(maxpool=MaxPool2d(3, 2), conv=conv_bn_relu(64, 96, 3, 2, 0)),
            Branches(
                branch0=branch(160, (64, 1), (96, 3, 1)),
                branch1=branch(160, (64, 1), (64, (1, 7)), (64, (7, 1)), (96, 3, 1)),
            ),
            Branches(conv=conv_bn_relu(192, 192, 3, 2, 0), maxpool=MaxPool2d(3, 2)),
            *(_a() for _ in range(4)),
            _reduction_a(),
            *(_b() for _ in range(7)),
            _reduction_b(),
            *(InceptionC() for _ in range(3)),
        )
        self.head_drop = nn.Dropout(drop_rate)
        self.last_linear: Any = self.make_last_layer(1536, num_classes)
        shapes = [(32, 2), (32, 2), (64, 2), (160, 4), (192, 4), (384, 8), *[(384, 8)] * 4]
        shapes += [*[(1024, 16)] * 8, *[(1536, 32)] * 4]
        self.complete(shapes, features_only=features_only, **kw)

    def initialise(self, name: str, module: nn.Module) -> None:
        """As torch makes the layers; the official code names no other."""

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return list(self.features)


register("inception_v4", InceptionV4, input_size=299, top1=80.0)
