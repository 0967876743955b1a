"""YOLOv5: Jocher et al. 2020, https://github.com/ultralytics/yolov5, releases 6.0 and 5.0; there is no paper.

Layers are numbered and named as in the releases, so that the tensors of their checkpoints fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.models.darknet_detector import decode_level
from cnnkernels.models.detection_network import DetectionNetwork
from cnnkernels.models.pickled_checkpoint import read_pickled
from cnnkernels.models.registry import register
from cnnkernels.nn import C3, SPP, SPPF, ConvBNAct, Focus, FusedBlock, _unit
from cnnkernels.nn.necks.pan import path_aggregation

_STRIDES = (8, 16, 32)
_ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
"""(width, height) in pixels for each stride: of k-means over COCO at 640, the same as YOLOv3's."""

_conv = partial(ConvBNAct, act="silu", eps=1e-3, momentum=0.03)


class Detect(FusedBlock):
    """A 1x1 convolution with bias for each map: ``num_classes + 5`` numbers for each of its anchors.

    anchors: (width, height) in pixels, equally many for each stride; the buffer ``anchors`` [levels, A, 2] keeps them in
    units of the stride.  Initial biases: 8 objects per image of 640 pixels, classes equally rare.

    maps: one [N, in_channels[i], H_i, W_i] per level.  Returns one [N, A, H_i, W_i, 5 + num_classes] per level.
    """

    anchors: Tensor

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        anchors: Sequence[Sequence[tuple[float, float]]],
        strides: Sequence[int],
    ) -> None:
        super().__init__()
        in_cells = torch.tensor(anchors, dtype=torch.float32) / torch.tensor(strides)[:, None, None]
        self.register_buffer("anchors", in_cells)
        self.m = nn.ModuleList(nn.Conv2d(c, len(anchors[0]) * (5 + num_classes), 1) for c in in_channels)
        for layer, stride in zip(self.m, strides, strict=True):
            with torch.no_grad():
                bias = layer.bias.view(len(anchors[0]), -1)  # type: ignore[union-attr, operator]
                bias[:, 4] += math.log(8 / (640 / stride) ** 2)
                bias[:, 5:] += math.log(0.6 / (num_classes - 0.99999))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        a = self.anchors.shape[1]
        levels = [
            _unit.run(self, i, x, layer, None, None) for i, (x, layer) in enumerate(zip(maps, self.m, strict=True))
        ]
        return [y.permute(0, 2, 3, 1).unflatten(3, (a, -1)).permute(0, 3, 1, 2, 4) for y in levels]


class YOLOv5(DetectionNetwork):
    """Backbone with C3 layers, PAN, ``Detect``: three anchors for each cell of three maps.

    depth, width: multiples of YOLOv5-L's number of blocks and channels (rounded up to a multiple of 8).
    focus: the form up to release 5.0: Focus for the stem, SPP before the last C3 layer of the backbone; else a 6x6
        convolution, and SPPF behind it.
    anchors: (width, height) in pixels, equally many for each of the strides 8, 16 and 32.

    ``raw``: one [N, A, H / s, W / s, 5 + num_classes] of logits per stride: x, y, w, h, objectness, classes.
    x is RGB, 0 to 1.
    """

    left_out = ("model.24.anchor_grid",)  # a second copy of the anchors in files up to release 5.0
    read_refused = staticmethod(read_pickled)

    def __init__(
        self,
        depth: float = 1.0,
        width: float = 1.0,
        focus: bool = False,
        anchors: Sequence[Sequence[tuple[float, float]]] = _ANCHORS,
        num_classes: int = 80,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"YOLOv5: num_classes must be at least 1, got {num_classes}")
        if len(anchors) != len(_STRIDES) or len({len(level) for level in anchors}) != 1:
            raise ValueError(f"YOLOv5: anchors must be {len(_STRIDES)} lists of equal length, got {anchors}")
        self.num_classes, self.backend, self.strides = num_classes, None, _STRIDES
        c1, c2, c3, c4, c5 = (math.ceil(64 * 2**i * width / 8) * 8 for i in range(5))

        def layer(in_channels: int, out_channels: int, blocks: int, shortcut: bool = True) -> C3:
            return C3(in_channels, out_channels, max(round(blocks * depth), 1), shortcut, conv=_conv)

        stem = Focus(in_chans, c1, 3, conv=_conv) if focus else _conv(in_chans, c1, 6, 2, padding=2)
        pooling = SPP(c5, c5, conv=_conv, prefix="cv") if focus else SPPF(c5, c5, conv=_conv)
        last = layer(c5, c5, 3, shortcut=not focus)
        layers = {
            0: stem,
            1: _conv(c1, c2, 3, 2),
            2: layer(c2, c2, 3),
            3: _conv(c2, c3, 3, 2),
            4: layer(c3, c3, 9 if focus else 6),
            5: _conv(c3, c4, 3, 2),
            6: layer(c4, c4, 9),
            7: _conv(c4, c5, 3, 2),
            8: pooling if focus else last,
            9: last if focus else pooling,
            # What has a number and no tensors (11, 12, 15, 16, 19, 22) enlarges or joins maps: path_aggregation.
            10: _conv(c5, c4, 1, 1),
            13: layer(2 * c4, c4, 3, shortcut=False),
            14: _conv(c4, c3, 1, 1),
            17: layer(2 * c3, c3, 3, shortcut=False),
            18: _conv(c3, c3, 3, 2),
            20: layer(2 * c3, c4, 3, shortcut=False),
            21: _conv(c4, c4, 3, 2),
            23: layer(2 * c4, c5, 3, shortcut=False),
            24: Detect((c3, c4, c5), num_classes, anchors, _STRIDES),
        }
        self.model = nn.ModuleDict({str(i): module for i, module in layers.items()})

    @property
    def anchors(self) -> list[list[tuple[float, float]]]:
        """(width, height) in pixels for each level, as the loaded checkpoint has them."""
        cells = self.model["24"].anchors.tolist()  # type: ignore[operator, union-attr]
        return [[(w * s, h * s) for w, h in level] for level, s in zip(cells, self.strides, strict=True)]

    def _layers(self, *numbers: int) -> list[Any]:
        return [self.model[str(i)] for i in numbers]

    def raw(self, x: Tensor) -> list[Tensor]:
        maps = []
        for i, module in enumerate(self._layers(*range(10))):
            x = module(x)
            if i in (4, 6, 9):
                maps.append(x)
        maps = path_aggregation(
            maps,
            reduce=self._layers(10, 14),
            merge_up=self._layers(13, 17),
            downsample=self._layers(18, 21),
            merge_down=self._layers(20, 23),
        )
        return self.model["24"](maps)  # type: ignore[no-any-return]

    def decode(self, raw: list[Tensor]) -> Tensor:
        """With s the sigmoid of a logit: centre (2 s - 0.5 + cell) * stride, size (2 s)^2 * anchor."""
        in_cells: Any = self.model["24"].anchors
        levels = zip(raw, in_cells, self.strides, strict=True)
        return torch.cat([decode_level(y, cells * s, s, 2.0, squared=True) for y, cells, s in levels], dim=1)


def _register(size: str, depth: float, width: float, ap: float, ap_v5: float | None) -> None:
    sizes: dict[str, Any] = {"input_size": 640, "task": "detection", "depth": depth, "width": width}
    register(f"yolov5{size}", YOLOv5, ap=ap, **sizes)
    if ap_v5 is not None:
        register(f"yolov5{size}_v5", YOLOv5, ap=ap_v5, focus=True, **sizes)


_register("n", 0.33, 0.25, 28.0, None)
_register("s", 0.33, 0.50, 37.4, 36.7)
_register("m", 0.67, 0.75, 45.4, 44.5)
_register("l", 1.00, 1.00, 49.0, 48.2)
_register("x", 1.33, 1.25, 50.7, 50.4)
