"""SE-ResNet, SE-ResNeXt and SENet-154: Hu, Shen, Albanie, Sun, Wu 2017, arXiv:1709.01507; timm's parameter names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from cnnkernels.models.registry import register
from cnnkernels.models.resnet import BasicBlock, Bottleneck, ResNet
from cnnkernels.nn import FusedSequential, MaxPool2d, SqueezeExcite


class SEResNet(ResNet):
    """``ResNet`` or ResNeXt with a squeeze-and-excitation at the end of every block, before the shortcut: figure 3.

    se_reduction: channels of the block over those of the middle layer, of which there are at least 8.  se_bias: of both
    layers of the squeeze-and-excitation.  Arguments else as in ``ResNet``.
    """

    attention: ClassVar[str] = "se"

    def __init__(self, *args: Any, se_reduction: int = 16, se_bias: bool = True, **kw: Any) -> None:
        if se_reduction < 1:
            raise ValueError(f"{type(self).__name__}: se_reduction must be at least 1, got {se_reduction}")
        self._se_reduction, self._se_bias = se_reduction, se_bias
        super().__init__(*args, **kw)

    def complete_block(self, block: BasicBlock | Bottleneck, channels: int) -> None:
        squeeze = max(8, channels // self._se_reduction)
        block.add_attention(self.attention, SqueezeExcite(channels, squeeze, bias=self._se_bias))


class SENetBottleneck(Bottleneck):
    """Bottleneck of SENet-154 (appendix): its first convolution has half the channels of the second."""

    @staticmethod
    def widths(width: int, groups: int, width_per_group: int) -> tuple[int, int]:
        inner = width * width_per_group // 64 * groups
        return inner // 2, inner


class SENet(SEResNet):
    """SENet-154 (appendix): a stem of three 3x3 convolutions, 3x3 convolutions in the shortcuts, dropout at the end.

    Its checkpoints come from Caffe, hence the pooling without padding that rounds up.
    """

    last_layer = "last_linear"
    stem_channels = 128
    downsample_kernel = 3
    attention = "se_module"

    def add_stem(self, in_chans: int) -> None:
        children: list[tuple[str, nn.Module]] = []
        channels = in_chans
        for i, width in enumerate((64, 64, self.stem_channels), 1):
            children += [
                (f"conv{i}", nn.Conv2d(channels, width, 3, 2 if i == 1 else 1, 1, bias=False)),
                (f"bn{i}", nn.BatchNorm2d(width)),
                (f"relu{i}", nn.ReLU(inplace=True)),
            ]
            channels = width
        self.layer0 = FusedSequential(OrderedDict(children))
        self.pool0 = MaxPool2d(3, 2, ceil_mode=True)

    def stem(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return [self.layer0, self.pool0]


register("seresnet18", SEResNet, block=BasicBlock, layers=(2, 2, 2, 2))
register("seresnet34", SEResNet, block=BasicBlock, layers=(3, 4, 6, 3))
register("seresnet50", SEResNet, block=Bottleneck, layers=(3, 4, 6, 3), top1=76.7)
register("seresnet101", SEResNet, block=Bottleneck, layers=(3, 4, 23, 3), top1=77.6)
register("seresnet152", SEResNet, block=Bottleneck, layers=(3, 8, 36, 3), top1=78.4)
register("seresnext50_32x4d", SEResNet, block=Bottleneck, layers=(3, 4, 6, 3), top1=78.9, groups=32, width_per_group=4)
register(
    "seresnext101_32x4d", SEResNet, block=Bottleneck, layers=(3, 4, 23, 3), top1=79.3, groups=32, width_per_group=4
)
register(
    "senet154",
    SENet,
    block=SENetBottleneck,
    layers=(3, 8, 36, 3),
    top1=81.3,
    groups=64,
    width_per_group=4,
    drop_rate=0.2,
)
