"""Darknet53: Redmon, Farhadi 2018, "YOLOv3", arXiv:1804.02767, table 1; CSPDarknet53: Bochkovskiy, Wang, Liao 2020,
"YOLOv4", arXiv:2004.10934, with the cross stages of Wang et al. 2019, "CSPNet", arXiv:1911.11929.  timm's parameter names.

The slope of the leaky ReLU is 0.1, as in the authors' configuration files (timm has torch's default of 0.01).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import ConvBNAct, ResUnit, ResX


class CrossStage(nn.Module):
    """Half of the channels goes past the blocks: CSPNet, figure 2 (b); x as in ``ResX``.

    The two 1x1 convolutions that make the halves are one, ``conv_exp``: first the half that passes, then the blocks'.
    The first stage of a network has halves as wide as its result and narrower blocks: ``first``.
    """

    def __init__(self, in_channels: int, out_channels: int, depth: int, act: str, first: bool) -> None:
        super().__init__()
        self.split_width = half = out_channels if first else out_channels // 2
        self.conv_down = ConvBNAct(in_channels, out_channels, 3, 2, act=act)
        self.conv_exp = ConvBNAct(out_channels, 2 * half, 1, act=act)
        hidden = half // 2 if first else half
        self.blocks = nn.Sequential(*(ResUnit(half, hidden, act) for _ in range(depth)))
        self.conv_transition_b = ConvBNAct(half, half, 1, act=act)
        self.conv_transition = ConvBNAct(2 * half, out_channels, 1, act=act)

    def forward(self, x: Tensor) -> Tensor:
        cross, inner = self.conv_exp(self.conv_down(x)).split(self.split_width, dim=1)
        # The blocks read their input twice: a dense copy of the half suits the fused paths, a view with gaps does not.
        inner = self.conv_transition_b(self.blocks(inner.clone()))
        return self.conv_transition(torch.cat((cross, inner), dim=1))  # type: ignore[no-any-return]


class Darknet(Network):
    """A 3x3 convolution, five stages that halve the resolution, pooling, one linear layer.

    depths: blocks per stage, from 64 channels up.  csp: cross stages.  act: of all convolutions ("mish" for the backbone
    of YOLOv4; the same tensors).  Arguments and results else as in ``Network``.
    """

    last_layer = "head.fc"

    def __init__(
        self,
        depths: Sequence[int] = (1, 2, 8, 8, 4),
        csp: bool = False,
        act: str = "leaky_relu(0.1)",
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.0,
        **kw: Any,
    ) -> None:
        super().__init__()
        channels = 32
        self.stem = nn.Sequential(OrderedDict(conv1=ConvBNAct(in_chans, channels, 3, act=act)))
        shapes, stages = [(channels, 1)], list[nn.Module]()
        for i, depth in enumerate(depths):
            width = 64 << i
            stages.append(
                CrossStage(channels, width, depth, act, first=i == 0) if csp else ResX(channels, width, depth, act)
            )
            channels = width
            shapes.append((channels, 2 << i))
        self.stages = nn.Sequential(*stages)
        self.drop_rate = drop_rate
        self.head = nn.Sequential(OrderedDict(fc=self.make_last_layer(channels, num_classes)))  # type: ignore[assignment, misc]
        self.complete(shapes, features_only=features_only, **kw)

    def initialise(self, name: str, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return [self.stem, *self.stages]


register("darknet53", Darknet, input_size=256, top1=77.2)
register("cspdarknet53", Darknet, input_size=256, top1=77.2, csp=True)
