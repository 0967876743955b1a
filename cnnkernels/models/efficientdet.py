"""EfficientDet: Tan, Pang, Le 2019, arXiv:1911.09070, table 1; parameter names of the package effdet (``tf_efficientdet_*``).

As in the authors' code: TensorFlow's SAME padding, biases also before BatchNorm; D6 and D7 fuse by plain sums; D7 differs
from D6 in the size of its images and anchors only; D7x has EfficientNet-B7 and a sixth level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.models.detection_network import DetectionNetwork, Preprocessing
from cnnkernels.models.efficientdet_anchors import EfficientDetAnchors, decode_boxes
from cnnkernels.models.efficientdet_backbone import EfficientNetTrunk
from cnnkernels.models.efficientnet import EfficientNet
from cnnkernels.models.registry import model_entry, register
from cnnkernels.nn import FusedBlock, SeparableConv2d, create_activation
from cnnkernels.nn.necks.bifpn import BiFPN

_BN: dict[str, Any] = {"eps": 1e-3, "momentum": 0.01}
_PRIOR = 0.01
"""Score that every class starts with: Lin et al. 2017, "Focal Loss", arXiv:1708.02002, section 4.1."""


class PredictionHead(FusedBlock):
    """Separable convolutions that all levels share, each followed by a BatchNorm of its own for every level.

    channels: of the maps.  out_channels: of the results.  repeats: of convolution, BatchNorm and SiLU.  levels: of the maps.
    Keys: ``conv_rep.REPEAT.*``, ``bn_rep.REPEAT.LEVEL.bn``, ``predict.*``.

    maps: a list of [N, channels, H_i, W_i], returns a list of [N, out_channels, H_i, W_i].
    """

    def __init__(self, channels: int, out_channels: int, repeats: int, levels: int) -> None:
        super().__init__()
        self.conv_rep = nn.ModuleList(SeparableConv2d(channels, channels) for _ in range(repeats))
        self.bn_rep: Any = nn.ModuleList(
            nn.ModuleList(nn.ModuleDict({"bn": nn.BatchNorm2d(channels, **_BN)}) for _ in range(levels))
            for _ in range(repeats)
        )
        self.act = create_activation("silu", inplace=True)
        self.predict = SeparableConv2d(channels, out_channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [self._of_level(level, x) for level, x in enumerate(maps)]

    def _of_level(self, level: int, x: Tensor) -> Tensor:
        for conv, norms in zip(self.conv_rep, self.bn_rep, strict=True):
            x = conv(x, norms[level]["bn"], self.act, level)
        return self.predict(x)  # type: ignore[no-any-return]


class EfficientDet(DetectionNetwork):
    """EfficientNet, BiFPN, one head for classes and one for boxes.

    backbone: name of the EfficientNet.  channels, cells: of the BiFPN.  repeats: of the heads.  levels: from stride 8 up.
    fusion: "fast" or "sum", see ``BiFPNFusion``.  anchor_scale: see ``EfficientDetAnchors``.
    num_classes: 90 as published, where COCO's ids are the classes.
    drop_path_rate: of the backbone's last block.

    ``raw(x)``: (class logits, box codes), each a list over the levels: [N, A * num_classes, H / s, W / s] and
    [N, A * 4, H / s, W / s], A = 9, anchor by anchor; codes as in ``decode_boxes``.  A candidate is one anchor.
    """

    preprocessing = Preprocessing(
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), fill=(124, 116, 104), centred=False
    )

    def __init__(
        self,
        backbone: str,
        channels: int,
        cells: int,
        repeats: int,
        levels: int = 5,
        fusion: str = "fast",
        anchor_scale: float = 4.0,
        num_classes: int = 90,
        in_chans: int = 3,
        drop_path_rate: float = 0.2,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"EfficientDet: num_classes must be at least 1, got {num_classes}")
        self.backend, self.num_classes = None, num_classes
        self.strides = tuple(8 << level for level in range(levels))
        self.anchors = EfficientDetAnchors(self.strides, anchor_scale)
        config = {**model_entry(backbone).config, "in_chans": in_chans, "drop_path_rate": drop_path_rate}
        self.backbone = EfficientNetTrunk(EfficientNet(features_only=True, **config))
        self.fpn = BiFPN(self.backbone.channels, channels, cells, levels, fusion, **_BN)
        self.class_net = PredictionHead(channels, self.anchors.per_cell * num_classes, repeats, levels)
        self.box_net = PredictionHead(channels, self.anchors.per_cell * 4, repeats, levels)
        self._initialise()

    def _initialise(self) -> None:
        """As the authors' code: Glorot's uniform in the neck, normal of variance 1 / fan in in the heads."""
        for part in (self.fpn, self.class_net, self.box_net):
            for conv in (m for m in part.modules() if isinstance(m, nn.Conv2d)):
                fan_in = conv.weight[0].numel()
                fan_out = conv.weight[:, 0].numel() // conv.groups
                if part is self.fpn:
                    bound = math.sqrt(6 / (fan_in + fan_out))
                    nn.init.uniform_(conv.weight, -bound, bound)
                else:
                    nn.init.normal_(conv.weight, 0, fan_in**-0.5)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
        nn.init.constant_(self.class_net.predict.conv_pw.bias, -math.log((1 - _PRIOR) / _PRIOR))  # type: ignore[arg-type]

    def raw(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        maps = self.fpn(self.backbone(x))
        return self.class_net(maps), self.box_net(maps)

    def decode(self, raw: tuple[list[Tensor], list[Tensor]]) -> Tensor:
        logits = torch.cat([_by_anchor(y, self.num_classes) for y in raw[0]], dim=1)
        codes = torch.cat([_by_anchor(y, 4) for y in raw[1]], dim=1)
        # float16 skips pixels beyond 2048, bfloat16 beyond 256.
        codes = codes.to(torch.promote_types(codes.dtype, torch.float32))
        anchors = self.anchors([y.shape[2:] for y in raw[0]], codes.device, codes.dtype)
        boxes = decode_boxes(codes, anchors)
        scores = logits.to(boxes.dtype).sigmoid()
        return torch.cat((boxes, torch.ones_like(scores[..., :1]), scores), dim=-1)


def _by_anchor(y: Tensor, n: int) -> Tensor:
    """[N, A * n, H, W] as [N, H * W * A, n]."""
    return y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, n)


# backbone, input_size, channels, cells, repeats, published AP on val2017
_VARIANTS = (
    ("b0", 512, 64, 3, 3, 34.3),
    ("b1", 640, 88, 4, 3, 40.2),
    ("b2", 768, 112, 5, 3, 42.5),
    ("b3", 896, 160, 6, 4, 47.2),
    ("b4", 1024, 224, 7, 4, 49.3),
    ("b5", 1280, 288, 7, 4, 51.2),
    ("b6", 1280, 384, 8, 5, 52.1),
    ("b6", 1536, 384, 8, 5, 53.4),
    ("b7", 1536, 384, 8, 5, 54.4),
)
_MORE: dict[str, dict[str, Any]] = {
    "d6": {"fusion": "sum"},
    "d7": {"fusion": "sum", "anchor_scale": 5.0},
    "d7x": {"fusion": "sum", "levels": 6},
}
for _name, (_backbone, _size, _channels, _cells, _repeats, _ap) in zip(
    (*(f"d{i}" for i in range(8)), "d7x"), _VARIANTS, strict=True
):
    register(
        f"efficientdet_{_name}",
        EfficientDet,
        input_size=_size,
        task="detection",
        ap=_ap,
        backbone=f"tf_efficientnet_{_backbone}",
        channels=_channels,
        cells=_cells,
        repeats=_repeats,
        **_MORE.get(_name, {}),
    )
