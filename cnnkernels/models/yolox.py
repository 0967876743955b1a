"""YOLOX: Ge, Liu, Wang, Li, Sun 2021, "YOLOX: Exceeding YOLO Series in 2021", arXiv:2107.08430.  The official keys."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.models.detection_network import DetectionNetwork, Preprocessing
from cnnkernels.models.grid import in_full_precision, positions
from cnnkernels.models.pickled_checkpoint import read_pickled
from cnnkernels.models.registry import register
from cnnkernels.models.yolox_darknet import YOLOFPN
from cnnkernels.nn import ConvBNAct, CSPLayer, DecoupledHead, Focus, depthwise_separable
from cnnkernels.nn.csp import ConvFactory
from cnnkernels.nn.necks.pan import path_aggregation
from cnnkernels.nn.spp import SPP

_BN = {"eps": 1e-3, "momentum": 0.03}


class CSPDarknet(nn.Module):
    """Focus, then four stages of a 3x3 convolution of stride 2 and a ``CSPLayer``; SPP in the last one.

    depth, width: multiples of YOLOX-L's number of blocks and channels.
    conv, conv3x3: make the convolutions and those larger than 1x1.

    Returns the maps of strides 8, 16 and 32, of ``channels``.
    """

    def __init__(self, depth: float, width: float, in_chans: int, conv: ConvFactory, conv3x3: ConvFactory) -> None:
        super().__init__()
        channels, blocks = int(64 * width), max(round(3 * depth), 1)
        self.stem = Focus(in_chans, channels, 3, conv=conv)
        layer = partial(CSPLayer, conv=conv, conv3x3=conv3x3)
        for stage, repeats in ((2, blocks), (3, 3 * blocks), (4, 3 * blocks)):
            down = conv3x3(channels, 2 * channels, 3, 2)
            channels *= 2
            self.add_module(f"dark{stage}", nn.Sequential(down, layer(channels, channels, repeats)))
        self.dark5 = nn.Sequential(
            conv3x3(channels, 2 * channels, 3, 2),
            SPP(2 * channels, 2 * channels, conv=conv),
            layer(2 * channels, 2 * channels, blocks, shortcut=False),
        )
        self.channels = [channels // 2, channels, 2 * channels]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.stem(x)]
        for stage in (2, 3, 4, 5):
            maps.append(self.get_submodule(f"dark{stage}")(maps[-1]))
        return maps[2:]


class YOLOPAFPN(nn.Module):
    """``CSPDarknet`` (child ``backbone``) and a PAN over its maps; returns three maps as wide as the backbone's."""

    def __init__(self, depth: float, width: float, in_chans: int, conv: ConvFactory, conv3x3: ConvFactory) -> None:
        super().__init__()
        self.backbone = CSPDarknet(depth, width, in_chans, conv, conv3x3)
        self.channels = c3, c4, c5 = self.backbone.channels
        layer = partial(CSPLayer, depth=round(3 * depth), shortcut=False, conv=conv, conv3x3=conv3x3)
        self.lateral_conv0 = conv(c5, c4, 1, 1)
        self.C3_p4 = layer(2 * c4, c4)
        self.reduce_conv1 = conv(c4, c3, 1, 1)
        self.C3_p3 = layer(2 * c3, c3)
        self.bu_conv2 = conv3x3(c3, c3, 3, 2)
        self.C3_n3 = layer(2 * c3, c4)
        self.bu_conv1 = conv3x3(c4, c4, 3, 2)
        self.C3_n4 = layer(2 * c4, c5)

    def forward(self, x: Tensor) -> list[Tensor]:
        return path_aggregation(
            self.backbone(x),
            reduce=(self.lateral_conv0, self.reduce_conv1),
            merge_up=(self.C3_p4, self.C3_p3),
            downsample=(self.bu_conv2, self.bu_conv1),
            merge_down=(self.C3_n3, self.C3_n4),
        )


class YOLOX(DetectionNetwork):
    """Backbone with neck (child ``backbone``) and decoupled head (``head``): one prediction per cell, without anchors.

    depth, width: multiples of YOLOX-L's number of blocks and channels.
    depthwise: depthwise separable convolutions where others are 3x3 (nano).
    darknet53: Darknet53 with an FPN as the backbone, leaky ReLU everywhere; depth and width are then 1.

    ``raw``: one [N, 5 + num_classes, H / s, W / s] per stride: x, y, w, h codes, then logits of objectness and classes.
    x is BGR, 0 to 255.
    """

    preprocessing = Preprocessing(bgr=True, scale=1.0, centred=False)
    read_refused = staticmethod(read_pickled)  # training keeps NumPy's numbers beside the tensors

    def __init__(
        self,
        depth: float = 1.0,
        width: float = 1.0,
        depthwise: bool = False,
        darknet53: bool = False,
        num_classes: int = 80,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"YOLOX: num_classes must be at least 1, got {num_classes}")
        self.num_classes, self.backend, self.strides = num_classes, None, (8, 16, 32)
        style: dict[str, Any] = {"act": "leaky_relu(0.1)" if darknet53 else "silu", **_BN}
        conv = partial(ConvBNAct, **style)
        conv3x3 = partial(depthwise_separable, **style) if depthwise else conv
        self.backbone = YOLOFPN(in_chans, conv) if darknet53 else YOLOPAFPN(depth, width, in_chans, conv, conv3x3)
        self.head = DecoupledHead(self.backbone.channels, int(256 * width), num_classes, conv, conv3x3)

    def raw(self, x: Tensor) -> list[Tensor]:
        return self.head(self.backbone(x))  # type: ignore[no-any-return]

    def decode(self, raw: list[Tensor]) -> Tensor:
        """Arithmetic in float32 for half types: a pixel of 640 has no place in bfloat16."""
        levels = []
        for level, stride in zip(raw, self.strides, strict=True):
            y = in_full_precision(level).permute(0, 2, 3, 1)
            centres = (y[..., :2] + positions(y)) * stride
            levels.append(torch.cat((centres, y[..., 2:4].exp() * stride, y[..., 4:].sigmoid()), dim=-1).flatten(1, 2))
        return torch.cat(levels, dim=1)


register("yolox_nano", YOLOX, input_size=416, task="detection", ap=25.8, depth=0.33, width=0.25, depthwise=True)
register("yolox_tiny", YOLOX, input_size=416, task="detection", ap=32.8, depth=0.33, width=0.375)
register("yolox_s", YOLOX, input_size=640, task="detection", ap=40.5, depth=0.33, width=0.5)
register("yolox_m", YOLOX, input_size=640, task="detection", ap=46.9, depth=0.67, width=0.75)
register("yolox_l", YOLOX, input_size=640, task="detection", ap=49.7, depth=1.0, width=1.0)
register("yolox_x", YOLOX, input_size=640, task="detection", ap=51.1, depth=1.33, width=1.25)
register("yolox_darknet53", YOLOX, input_size=640, task="detection", ap=47.7, darknet53=True)
