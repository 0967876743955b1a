"""What a training is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from cnnkernels import _boxes
from cnnkernels.models import model_entry

IOU_KINDS = ("family", *_boxes.CODES)


@dataclass(frozen=True)
class Settings:
    """The defaults are for small detectors from scratch; rates are for a batch of 64 and scaled with the batch."""

    model: str
    size: int = 416
    """Height and width of the network's input, a multiple of its largest stride."""
    eval_size: int = 0
    """Of evaluation, and for ``Detector``; 0: ``size``.  A sixth above it is often better: augmentation enlarges objects
    (Touvron et al. 2019, arXiv:1906.06423)."""
    epochs: int = 300
    batch_size: int = 16
    """Pictures of one step, over all processes."""
    accumulate: int = 1
    """Steps whose gradients are added before the weights move."""
    optimizer: str = "sgd"
    """"sgd" (Nesterov's momentum) or "adamw"."""
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    """Not of biases and BatchNorm."""
    warmup_epochs: float = 3.0
    final_lr: float = 0.05
    """Share of ``lr`` that the cosine ends in."""
    plain_epochs: int = 15
    """The last ones: no Mosaic, no MixUp, and with YOLOX the L1 loss."""
    mosaic: float = 1.0
    """Probability."""
    mixup: float = 0.0
    iou_kind: str = "family"
    """Of the box loss: iou, giou, diou, ciou, or "family" for the published one."""
    box_weight: float = 0.0
    """Of the box loss; 0 for the published one: 5 of YOLOX, 0.07 of YOLOv3 and v4, 0.05 of YOLOv5, 50 of EfficientDet."""
    label_smoothing: float = 0.0
    adversarial: float = 0.0
    """Step of self-adversarial training, as a share of the pixels' range; 0: none."""
    ema_decay: float = 0.0
    """Of the averaged weights; 0: a fiftieth of the training's updates are averaged, 0.9998 at most."""
    amp: bool = False
    """float16 with scaled losses on a GPU, bfloat16 on a CPU."""
    clip: float = 10.0
    """Largest norm of the gradients."""
    seed: int = 0
    workers: int = 2
    """Processes that read pictures."""
    evaluate_every: int = 5
    """Epochs; the last one is always evaluated."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        entry = model_entry(self.model)
        if entry.task != "detection":
            raise ValueError(f"train: {self.model} is for {entry.task}, not for detection")
        positive = ("size", "epochs", "batch_size", "accumulate", "lr", "evaluate_every", "clip")
        bad = [name for name in positive if getattr(self, name) <= 0]
        bad += [name for name in ("warmup_epochs", "plain_epochs", "weight_decay", "workers", "eval_size", "seed", "adversarial",
                             "box_weight")
                if getattr(self, name) < 0]  # fmt: skip
        bad += [name for name in ("momentum", "mosaic", "mixup", "final_lr", "ema_decay", "label_smoothing")
                if not 0 <= getattr(self, name) <= 1]  # fmt: skip
        if bad:
            values = ", ".join(f"{name}={getattr(self, name)}" for name in bad)
            raise ValueError(f"train: out of range: {values}")
        if self.optimizer not in ("sgd", "adamw"):
            raise ValueError(f"train: optimizer must be sgd or adamw, got {self.optimizer!r}")
        if self.iou_kind not in IOU_KINDS:
            raise ValueError(f"train: iou_kind must be one of {', '.join(IOU_KINDS)}, got {self.iou_kind!r}")
