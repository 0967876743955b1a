"""YOLOX's Darknet53 form: the backbone and feature pyramid of YOLOv3 (arXiv:1804.02767) with SPP.  The official keys."""

from __future__ import annotations

from torch import Tensor, nn

from cnnkernels.nn.csp import Bottleneck, ConvFactory
from cnnkernels.nn.necks.pan import top_down
from cnnkernels.nn.spp import SPP


def _alternating(in_channels: int, narrow: int, convs: int, conv: ConvFactory) -> list[nn.Module]:
    """1x1 to ``narrow`` channels, 3x3 to twice as many, 1x1, ..."""
    layers = []
    for i in range(convs):
        out, kernel_size = (2 * narrow, 3) if i % 2 else (narrow, 1)
        layers.append(conv(in_channels, out, kernel_size, 1))
        in_channels = out
    return layers


class Darknet53(nn.Module):
    """A 3x3 convolution, then five times a 3x3 one of stride 2 and bottlenecks; SPP between convolutions at the end.

    Returns the maps of strides 8, 16 and 32, of 256, 512 and 512 channels.
    """

    def __init__(self, in_chans: int, conv: ConvFactory) -> None:
        super().__init__()

        def stage(width: int, blocks: int) -> list[nn.Module]:
            chain = (Bottleneck(width, width, conv=conv, prefix="layer") for _ in range(blocks))
            return [conv(width // 2, width, 3, 2), *chain]

        self.stem = nn.Sequential(conv(in_chans, 32, 3, 1), *stage(64, 1))
        self.dark2 = nn.Sequential(*stage(128, 2))
        self.dark3 = nn.Sequential(*stage(256, 8))
        self.dark4 = nn.Sequential(*stage(512, 8))
        around = _alternating(1024, 512, 2, conv), [conv(512, 1024, 3, 1), conv(1024, 512, 1, 1)]
        self.dark5 = nn.Sequential(*stage(1024, 4), *around[0], SPP(1024, 512, conv=conv), *around[1])

    def forward(self, x: Tensor) -> list[Tensor]:
        third = self.dark3(self.dark2(self.stem(x)))
        fourth = self.dark4(third)
        return [third, fourth, self.dark5(fourth)]


class YOLOFPN(nn.Module):
    """``Darknet53`` (child ``backbone``) and the path from its coarsest map upwards.

    x: [N, in_chans, H, W].  Returns the maps of strides 8, 16 and 32, of ``channels``.
    """

    def __init__(self, in_chans: int, conv: ConvFactory) -> None:
        super().__init__()
        self.backbone = Darknet53(in_chans, conv)
        self.channels = [128, 256, 512]
        self.out1_cbl = conv(512, 256, 1, 1)
        self.out1 = nn.Sequential(*_alternating(512 + 256, 256, 5, conv))
        self.out2_cbl = conv(256, 128, 1, 1)
        self.out2 = nn.Sequential(*_alternating(256 + 128, 128, 5, conv))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.backbone(x)
        merged, _ = top_down(maps, (self.out1_cbl, self.out2_cbl), (self.out1, self.out2))
        return [*merged, maps[-1]]
