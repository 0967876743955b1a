"""The trunk of EfficientNet under the names that timm, and with it effdet, gives its layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cnnkernels.models.efficientnet import EfficientNet
from cnnkernels.nn import FusedBlock, FusedSequential, MBConv, SqueezeExcite
from cnnkernels.nn._inverted_residual import inverted_residual

_NAMES = {
    6: ("conv_dw", "bn1", "act1", "se", "conv_pw", "bn2"),
    9: ("conv_pw", "bn1", "act1", "conv_dw", "bn2", "act2", "se", "conv_pwl", "bn3"),
}
"""Of the layers of a block without and with an expansion."""


def _renamed(block: MBConv) -> FusedSequential:
    """The layers of a block, one after the other, under timm's names."""
    layers: list[Any] = [m for child in block.block for m in (child if isinstance(child, FusedSequential) else [child])]
    named = OrderedDict(zip(_NAMES[len(layers)], layers, strict=True))
    gate, names = named["se"], ("conv_reduce", "conv_expand")
    named["se"] = SqueezeExcite(gate.fc2.out_channels, gate.squeeze_channels, "silu", names=names)
    named["se"].conv_reduce, named["se"].conv_expand = gate.fc1, gate.fc2
    return FusedSequential(named)


class _Stage(nn.Module):
    """Blocks "0", "1", ..., and the stochastic depth of those that add their input."""

    def __init__(self, blocks: Sequence[MBConv]) -> None:
        super().__init__()
        self._adds = [block.use_res_connect for block in blocks]
        for i, block in enumerate(blocks):
            self.add_module(str(i), _renamed(block))
        self.drop_path: Any = nn.ModuleList(block.stochastic_depth for block in blocks)

    def forward(self, x: Tensor) -> Tensor:
        for i, (adds, drop_path) in enumerate(zip(self._adds, self.drop_path, strict=True)):
            block: Any = self._modules[str(i)]
            if adds and self.training and drop_path.p > 0:
                x = drop_path(block(x)) + x
            else:
                x = inverted_residual(block, x, adds)
        return x


class EfficientNetTrunk(FusedBlock):
    """Stem and stages of an ``EfficientNet``, whose layers it takes over: ``conv_stem``, ``bn1``, ``blocks.STAGE.N.*``.

    x: [N, in_chans, H, W].  Returns the last map of each of the strides 8, 16 and 32: [N, channels[i], H / s, W / s].
    """

    def __init__(self, network: EfficientNet) -> None:
        super().__init__()
        features: Any = network.features
        stem, *stages = features
        self.conv_stem, self.bn1, self.act1 = stem
        self.blocks = nn.Sequential(*(_Stage(list(stage)) for stage in stages))
        self.channels = network.channels[-3:]
        # The map before a stage that begins with stride 2 is the last one of its stride.
        depthwise = [next(m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.groups > 1) for stage in stages]
        self._ends = [i - 1 for i, conv in enumerate(depthwise) if conv.stride == (2, 2)][-2:] + [len(stages) - 1]

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.fused(x, "conv_stem", "bn1", "act1")
        maps: list[Tensor] = []
        for i, stage in enumerate(self.blocks):
            x = stage(x)
            if i in self._ends:
                maps.append(x)
        return maps
