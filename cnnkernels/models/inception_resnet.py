"""Inception-ResNet v1 and v2: Szegedy, Ioffe, Vanhoucke, Alemi 2016, arXiv:1602.07261, figures 10 to 17.

v2 has timm's parameter names, v1 those of facenet-pytorch, with a classifier behind its embedding of 512.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.models.inception import Branches, Layer, branch, conv_bn_relu
from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import Linear, MaxPool2d


class Residual(Branches):
    """Branches, a linear 1x1 convolution of them scaled down, the input added, ReLU: section 3.3 of the paper.

    scale: of the convolution's result.  relu: False for the last block of all.
    """

    def __init__(self, channels: int, branches: Sequence[Sequence[Layer]], scale: float, relu: bool = True) -> None:
        super().__init__(**{f"branch{i}": branch(channels, *layers) for i, layers in enumerate(branches)})
        self.conv2d = nn.Conv2d(sum(layers[-1][0] for layers in branches), channels, 1)
        self.relu: Any = nn.ReLU(inplace=True) if relu else nn.Identity()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        y = self.fused(self.joined(x), "conv2d")
        return self.relu(torch.add(x, y, alpha=self.scale))


def _reduction(channels: int, *branches: Sequence[Layer]) -> Branches:
    """Convolutions that halve the size, and max pooling, as the last branch."""
    made = {f"branch{i}": branch(channels, *layers) for i, layers in enumerate(branches)}
    return Branches(**made, **{f"branch{len(branches)}": MaxPool2d(3, 2)})


def _repeated(times: int, make: Callable[[], nn.Module]) -> nn.Sequential:
    return nn.Sequential(*(make() for _ in range(times)))


class _InceptionResNet(Network):
    """What both versions do with their children; subclasses name them."""

    def add_stem(self, in_chans: int) -> None:
        self.conv2d_1a = conv_bn_relu(in_chans, 32, 3, 2, 0)
        self.conv2d_2a = conv_bn_relu(32, 32, 3, 1, 0)
        self.conv2d_2b = conv_bn_relu(32, 64, 3)
        self.maxpool_3a = MaxPool2d(3, 2)
        self.conv2d_3b = conv_bn_relu(64, 80, 1)
        self.conv2d_4a = conv_bn_relu(80, 192, 3, 1, 0)

    stem_shapes = ((32, 2), (32, 2), (64, 2), (64, 4), (80, 4), (192, 4))

    def initialise(self, name: str, module: nn.Module) -> None:
        """As torch makes the layers; the official code names no other."""

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return [m for name, m in self._modules.items() if name not in self._head()]  # type: ignore[misc]


class InceptionResNetV2(_InceptionResNet):
    """Stem, 10 + 20 + 10 residual blocks with reductions between, pooling, dropout, one linear layer.

    Images of at least 75 x 75 pixels.  Arguments and results as in ``Network``.
    """

    last_layer = "classif"
    head = ("head_drop", "classif")

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.2,
        **kw: Any,
    ) -> None:
        super().__init__()
        self.add_stem(in_chans)
        self.maxpool_5a = MaxPool2d(3, 2)
        self.mixed_5b = Branches(
            branch0=branch(192, (96, 1)),
            branch1=branch(192, (48, 1), (64, 5)),
            branch2=branch(192, (64, 1), (96, 3), (96, 3)),
            branch3=branch(192, (64, 1), pool=nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
        )
        block35 = ([(32, 1)], [(32, 1), (32, 3)], [(32, 1), (48, 3), (64, 3)])
        self.repeat = _repeated(10, lambda: Residual(320, block35, 0.17))
        self.mixed_6a = _reduction(320, [(384, 3, 2)], [(256, 1), (256, 3), (384, 3, 2)])
        block17 = ([(192, 1)], [(128, 1), (160, (1, 7)), (192, (7, 1))])
        self.repeat_1 = _repeated(20, lambda: Residual(1088, block17, 0.10))
        self.mixed_7a = _reduction(
            1088, [(256, 1), (384, 3, 2)], [(256, 1), (288, 3, 2)], [(256, 1), (288, 3), (320, 3, 2)]
        )
        block8 = ([(192, 1)], [(192, 1), (224, (1, 3)), (256, (3, 1))])
        self.repeat_2 = _repeated(9, lambda: Residual(2080, block8, 0.20))
        self.block8 = Residual(2080, block8, 1.0, relu=False)
        self.conv2d_7b = conv_bn_relu(2080, 1536, 1)
        self.head_drop = nn.Dropout(drop_rate)
        self.classif: Any = self.make_last_layer(1536, num_classes)
        rest = [(192, 8), (320, 8), (320, 8), (1088, 16), (1088, 16), *[(2080, 32)] * 3, (1536, 32)]
        self.complete([*self.stem_shapes, *rest], features_only=features_only, **kw)


class InceptionResNetV1(_InceptionResNet):
    """Stem, 5 + 10 + 6 residual blocks with reductions between, pooling, dropout, an embedding of 512, the classifier.

    Images of at least 75 x 75 pixels.  Arguments and results as in ``Network``.
    """

    last_layer = "logits"
    head = ("dropout", "last_linear", "last_bn", "logits")

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.6,
        **kw: Any,
    ) -> None:
        super().__init__()
        self.add_stem(in_chans)
        self.conv2d_4b = conv_bn_relu(192, 256, 3, 2, 0)
        block35 = ([(32, 1)], [(32, 1), (32, 3)], [(32, 1), (32, 3), (32, 3)])
        self.repeat_1 = _repeated(5, lambda: Residual(256, block35, 0.17))
        self.mixed_6a = _reduction(256, [(384, 3, 2)], [(192, 1), (192, 3), (256, 3, 2)])
        block17 = ([(128, 1)], [(128, 1), (128, (1, 7)), (128, (7, 1))])
        self.repeat_2 = _repeated(10, lambda: Residual(896, block17, 0.10))
        self.mixed_7a = _reduction(
            896, [(256, 1), (384, 3, 2)], [(256, 1), (256, 3, 2)], [(256, 1), (256, 3), (256, 3, 2)]
        )
        block8 = ([(192, 1)], [(192, 1), (192, (1, 3)), (192, (3, 1))])
        self.repeat_3 = _repeated(5, lambda: Residual(1792, block8, 0.20))
        self.block8 = Residual(1792, block8, 1.0, relu=False)
        self.dropout = nn.Dropout(drop_rate)
        self.last_linear = Linear(1792, 512, bias=False)
        self.last_bn = nn.BatchNorm1d(512, eps=1e-3)
        self.logits: Any = self.make_last_layer(512, num_classes)
        rest = [(256, 8), (256, 8), (896, 16), (896, 16), *[(1792, 32)] * 3]
        self.complete([*self.stem_shapes, *rest], features_only=features_only, **kw)


register("inception_resnet_v1", InceptionResNetV1, input_size=299, top1=78.7)
register("inception_resnet_v2", InceptionResNetV2, input_size=299, top1=80.1)
