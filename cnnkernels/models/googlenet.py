"""GoogLeNet (Inception v1): Szegedy et al. 2014, arXiv:1409.4842, table 1; torchvision's parameter names.

As torchvision has it: BatchNorm after every convolution, and 3x3 convolutions where the paper has 5x5 ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from cnnkernels.models.inception import AuxiliaryNetwork, Branches, branch, conv_bn_relu
from cnnkernels.models.registry import register
from cnnkernels.nn import Linear, MaxPool2d

# 1x1; 3x3 reduce, 3x3; "5x5" reduce, "5x5"; pool projection: table 1 of the paper
_BLOCKS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class InceptionAux(nn.Module):
    """Logits of a 14x14 map."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.conv = conv_bn_relu(in_channels, 128, 1)
        self.fc1 = Linear(2048, 1024)
        self.fc2 = Linear(1024, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.adaptive_avg_pool2d(x, (4, 4))).flatten(1)
        return self.fc2(self.dropout(F.relu(self.fc1(x), inplace=True)))


class GoogLeNetOutputs(NamedTuple):
    logits: Tensor
    aux_logits2: Tensor
    aux_logits1: Tensor


class GoogLeNet(AuxiliaryNetwork):
    """Stem, nine blocks of four parallel branches, pooling, dropout, one linear layer.

    Arguments and results as in ``AuxiliaryNetwork``; aux_drop_rate: of the auxiliary heads.
    """

    last_layer = "fc"
    head = ("dropout", "fc")
    aux_heads = {"aux1": ("inception4a", "fc2"), "aux2": ("inception4d", "fc2")}  # noqa: RUF012
    outputs = GoogLeNetOutputs

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.2,
        aux_logits: bool = False,
        aux_drop_rate: float = 0.7,
        transform_input: bool = False,
        **kw: Any,
    ) -> None:
        super().__init__()
        self.transform_input = transform_input
        self.conv1 = conv_bn_relu(in_chans, 64, 7, 2, 3)
        self.maxpool1 = MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = conv_bn_relu(64, 64, 1)
        self.conv3 = conv_bn_relu(64, 192, 3)
        self.maxpool2 = MaxPool2d(3, 2, ceil_mode=True)
        channels, stride = 192, 8
        shapes = [(64, 2), (64, 4), (64, 4), (192, 4), (192, 8)]
        for name, (one, reduce3, three, reduce5, five, pool) in _BLOCKS.items():
            if name in ("4a", "5a"):
                first = name == "4a"
                self.add_module(f"maxpool{3 if first else 4}", MaxPool2d(3 if first else 2, 2, ceil_mode=True))
                stride *= 2
                shapes.append((channels, stride))
            block = Branches(
                branch1=branch(channels, (one, 1)),
                branch2=branch(channels, (reduce3, 1), (three, 3)),
                branch3=branch(channels, (reduce5, 1), (five, 3)),
                branch4=branch(channels, (pool, 1), pool=MaxPool2d(3, 1, 1, ceil_mode=True)),
            )
            self.add_module(f"inception{name}", block)
            channels = one + three + five + pool
            shapes.append((channels, stride))
        if aux_logits and num_classes:
            self.aux1 = InceptionAux(512, num_classes, aux_drop_rate)
            self.aux2 = InceptionAux(528, num_classes, aux_drop_rate)
        self.dropout = nn.Dropout(drop_rate)
        self.fc: Any = self.make_last_layer(channels, num_classes)
        self.complete(shapes, features_only=features_only, **kw)

    def initialise(self, name: str, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.trunc_normal_(module.weight, 0.0, 0.01, -2.0, 2.0)

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return [m for name, m in self._modules.items() if name not in (*self._head(), *self.aux_heads)]  # type: ignore[misc]


register("googlenet", GoogLeNet, top1=69.8)
