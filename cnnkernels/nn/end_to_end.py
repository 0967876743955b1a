"""YOLOX's head with a selector that leaves one prediction for each object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.nn._block import FusedBlock
from cnnkernels.nn.csp import CBS, ConvFactory
from cnnkernels.nn.decoupled_head import DecoupledHead


class EndToEndHead(DecoupledHead):
    """The children of ``head``, and for each level two 3x3 convolutions (``selectors``) on the features of the box branch
    and a 1x1 one (``selector_preds``) to one logit: is this prediction the one that stands for its object?

    Ge et al. 2021, "YOLOX", arXiv:2107.08430, section 2.2 (end-to-end YOLO), after Zhou, Yu, Shen 2021, "Object Detection
    Made Simpler by Eliminating Heuristic NMS", arXiv:2101.11782.  No gradient goes from the selector into the features: the
    head learns as it does without it.

    conv: makes the 3x3 convolutions.

    maps as in ``DecoupledHead``.  Returns one [N, 5 + num_classes + 1, H_i, W_i] per level: its logits, then the selector's.
    """

    def __init__(self, head: DecoupledHead, conv: ConvFactory = CBS) -> None:
        FusedBlock.__init__(self)  # the children are there already
        for name, child in head.named_children():
            self.add_module(name, child)
        layers: Any = head.reg_preds
        widths = [layer.in_channels for layer in layers]
        self.selectors = nn.ModuleList(nn.Sequential(*(conv(c, c, 3, 1) for _ in range(2))) for c in widths)
        self.selector_preds = nn.ModuleList(nn.Conv2d(c, 1, 1) for c in widths)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels = []
        for i, x in enumerate(maps):
            x = self.stems[i](x)
            classes, boxes = self.cls_convs[i](x), self.reg_convs[i](x)
            selected = self.selectors[i](boxes.detach())
            inputs = {"reg_preds": boxes, "obj_preds": boxes, "cls_preds": classes, "selector_preds": selected}
            levels.append(torch.cat([self._predict(name, i, y) for name, y in inputs.items()], dim=1))
        return levels
