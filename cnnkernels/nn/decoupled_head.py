"""YOLOX's head: one branch says what it is, another one where."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnnkernels.nn import _unit
from cnnkernels.nn._block import FusedBlock
from cnnkernels.nn.csp import CBS, ConvFactory


class DecoupledHead(FusedBlock):
    """Ge et al. 2021, "YOLOX: Exceeding YOLO Series in 2021", arXiv:2107.08430, figure 2; the official keys.

    For each map: a 1x1 convolution to ``hidden`` channels (``stems``); two 3x3 ones for the classes (``cls_convs``), whose
    result a 1x1 convolution turns into logits (``cls_preds``); two 3x3 ones (``reg_convs``) for box (``reg_preds``) and
    objectness (``obj_preds``).

    in_channels: of the maps.
    conv: makes the convolutions; conv3x3: makes those of the branches (None: ``conv`` does).
    prior: probability that the initial biases give every class and objectness (focal loss, arXiv:1708.02002, section 4.1).

    maps: one [N, in_channels[i], H_i, W_i] per level.  Returns one [N, 5 + num_classes, H_i, W_i] per level: four box
    codes, then the logits of objectness and of the classes.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        hidden: int,
        num_classes: int,
        conv: ConvFactory = CBS,
        conv3x3: ConvFactory | None = None,
        prior: float = 1e-2,
    ) -> None:
        super().__init__()
        wide = conv3x3 or conv
        levels = range(len(in_channels))

        def branches() -> nn.ModuleList:
            return nn.ModuleList(nn.Sequential(*(wide(hidden, hidden, 3, 1) for _ in range(2))) for _ in levels)

        def predictions(channels: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(hidden, channels, 1) for _ in levels)

        self.cls_convs = branches()
        self.reg_convs = branches()
        self.cls_preds = predictions(num_classes)
        self.reg_preds = predictions(4)
        self.obj_preds = predictions(1)
        self.stems = nn.ModuleList(conv(channels, hidden, 1, 1) for channels in in_channels)
        for layer in (*self.cls_preds, *self.obj_preds):
            nn.init.constant_(layer.bias, -math.log((1 - prior) / prior))  # type: ignore[arg-type]

    def _predict(self, name: str, level: int, x: Tensor) -> Tensor:
        layer = self.get_submodule(name)[level]  # type: ignore[index]
        return _unit.run(self, (name, level), x, layer, None, None)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels = []
        for i, x in enumerate(maps):
            x = self.stems[i](x)
            classes, boxes = self.cls_convs[i](x), self.reg_convs[i](x)
            parts = [(name, boxes) for name in ("reg_preds", "obj_preds")] + [("cls_preds", classes)]
            levels.append(torch.cat([self._predict(name, i, y) for name, y in parts], dim=1))
        return levels
