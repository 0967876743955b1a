"""ECA-ResNet: Wang, Wu, Zhu, Li, Zuo, Hu 2019, "ECA-Net", arXiv:1910.03151; CBAM-ResNet: Woo, Park, Lee, Kweon 2018,
"CBAM: Convolutional Block Attention Module", arXiv:1807.06521.

Parameter names of timm (ECA) and of the authors' code (CBAM).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from cnnkernels.models.registry import register
from cnnkernels.models.resnet import BasicBlock, Bottleneck, ResNet
from cnnkernels.nn.attention import CBAM, EfficientChannelAttention


class ECAResNet(ResNet):
    """``ResNet`` with efficient channel attention at the end of every block, before the shortcut."""

    def complete_block(self, block: BasicBlock | Bottleneck, channels: int) -> None:
        block.add_attention("se", EfficientChannelAttention(channels))


class CBAMResNet(ResNet):
    """``ResNet`` with channel and spatial attention at the end of every block, before the shortcut: figure 3.

    cbam_reduction: channels of the block over those of the middle layer.  Arguments else as in ``ResNet``.
    """

    def __init__(self, *args: Any, cbam_reduction: int = 16, **kw: Any) -> None:
        self._cbam_reduction = cbam_reduction
        super().__init__(*args, **kw)

    def complete_block(self, block: BasicBlock | Bottleneck, channels: int) -> None:
        block.add_attention("cbam", CBAM(channels, self._cbam_reduction))

    def initialise(self, name: str, module: nn.Module) -> None:
        super().initialise(name, module)
        if name.endswith("SpatialGate.spatial.bn"):
            nn.init.zeros_(module.weight)  # type: ignore[arg-type]


register("ecaresnet18", ECAResNet, block=BasicBlock, layers=(2, 2, 2, 2))
register("ecaresnet34", ECAResNet, block=BasicBlock, layers=(3, 4, 6, 3))
register("ecaresnet50", ECAResNet, block=Bottleneck, layers=(3, 4, 6, 3), top1=77.5)
register("ecaresnet101", ECAResNet, block=Bottleneck, layers=(3, 4, 23, 3), top1=78.7)
register("cbam_resnet18", CBAMResNet, block=BasicBlock, layers=(2, 2, 2, 2), top1=70.7)
register("cbam_resnet34", CBAMResNet, block=BasicBlock, layers=(3, 4, 6, 3), top1=74.0)
register("cbam_resnet50", CBAMResNet, block=Bottleneck, layers=(3, 4, 6, 3), top1=77.3)
register("cbam_resnet101", CBAMResNet, block=Bottleneck, layers=(3, 4, 23, 3), top1=78.5)
