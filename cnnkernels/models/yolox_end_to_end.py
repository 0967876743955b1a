"""YOLOX without NMS: Ge et al. 2021, arXiv:2107.08430, section 2.2, "end-to-end YOLO"."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cnnkernels.models.yolox import YOLOX
from cnnkernels.nn import ConvBNAct
from cnnkernels.nn.end_to_end import EndToEndHead


class YOLOXEndToEnd(YOLOX):
    """YOLOX with ``EndToEndHead``: the selector's score is a factor of the objectness, and one prediction per object is left
    above the threshold of a detector; NMS finds nothing to remove.

    Arguments, x and predictions as in ``YOLOX``.  Keys: those of ``YOLOX``, and ``head.selectors.*``,
    ``head.selector_preds.*``: ``load_state_dict(..., strict=False)`` takes a file of YOLOX, whose selectors are then to be
    trained with ``cnnkernels.detection.end_to_end_loss``.

    ``raw``: one [N, 5 + num_classes + 1, H / s, W / s] per stride, the selector's logit last.
    """

    def __init__(self, **kw: Any) -> None:
        super().__init__(**kw)
        act = "leaky_relu(0.1)" if kw.get("darknet53") else "silu"
        self.head = EndToEndHead(self.head, partial(ConvBNAct, act=act, eps=1e-3, momentum=0.03))

    def decode(self, raw: list[Tensor]) -> Tensor:
        predictions = super().decode([level[:, :-1] for level in raw])
        selected = torch.cat([level[:, -1].flatten(1) for level in raw], dim=1).to(predictions.dtype).sigmoid()
        boxes, objectness, classes = predictions.split([4, 1, predictions.shape[2] - 5], dim=2)
        return torch.cat((boxes, objectness * selected[..., None], classes), dim=2)
