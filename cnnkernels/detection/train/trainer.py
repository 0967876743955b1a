"""The loop: epochs of steps, evaluation of the averaged weights, a checkpoint after each epoch."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from cnnkernels.detection import weights as weight_files
from cnnkernels.detection.augment import self_adversarial
from cnnkernels.detection.data.coco import CocoData
from cnnkernels.detection.detector import Detector
from cnnkernels.detection.ema import ModelEMA
from cnnkernels.detection.evaluate import Precision, evaluate
from cnnkernels.detection.losses import loss_for
from cnnkernels.detection.schedule import warmup_cosine
from cnnkernels.detection.train import processes
from cnnkernels.detection.train.log import Log
from cnnkernels.detection.train.pictures import TrainingPictures, collate
from cnnkernels.detection.train.settings import Settings
from cnnkernels.detection.train.state import read_state, write_state
from cnnkernels.detection.types import Targets
from cnnkernels.detection.yolox_loss import YOLOXLoss
from cnnkernels.models import create_model
from cnnkernels.models.yolov5 import YOLOv5
from cnnkernels.models.yolox import YOLOX

NOMINAL_BATCH = 64
"""For which ``Settings.lr`` is."""


class Trainer:
    """``Trainer(settings, train, val, folder).run()``.

    Writes into ``folder``, each file whole or not at all:
        last.pt            everything to go on from, after every epoch
        best.safetensors   averaged weights of the best mAP@0.5 so far, for ``Detector``
        log.csv            a row an epoch
        curves.png         losses and precision over the epochs (with matplotlib)

    A run into a folder with a last.pt goes on after the epoch that it holds, whatever ended the run before; the result
    is that of an uninterrupted one.  ValueError if that run had other settings or classes.
    In several processes (torchrun) each works on its share of every batch; the first one evaluates and writes.
    """

    def __init__(self, settings: Settings, train: CocoData, val: CocoData, folder: str | pathlib.Path) -> None:
        if list(train.names) != list(val.names):
            raise ValueError(f"train: classes of the two parts differ: {train.names} and {val.names}")
        self.settings, self.val, self.names = settings, val, list(train.names)
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if settings.batch_size % processes.count():
            raise ValueError(
                f"train: {settings.batch_size} pictures a step cannot be shared by {processes.count()} processes"
            )
        self.device = processes.device(settings.device)
        torch.manual_seed(settings.seed)
        model = create_model(settings.model, num_classes=len(self.names)).to(self.device)
        self.model = nn.SyncBatchNorm.convert_sync_batchnorm(model) if self._synchronised() else model
        self.loss = _loss(model, settings).to(self.device)
        self.pictures = TrainingPictures(train, model.preprocessing, settings)
        self.ema = _average(model, settings, len(train) // settings.batch_size)
        self.optimizer = _optimizer(self.model, settings)
        self.scaler = torch.amp.GradScaler("cuda", enabled=settings.amp and self.device.type == "cuda")
        self.log = Log(self.folder / "log.csv")
        self.epoch, self.best = 0, -1.0
        self._resume()
        self.loader = self._loader()
        self.forward: nn.Module = DistributedDataParallel(self.model) if processes.count() > 1 else self.model

    def run(self, say: Callable[[str], None] = print) -> Precision | None:
        """All epochs that are left; the last evaluation, None where this process did none."""
        precision = None
        while self.epoch < self.settings.epochs:
            start = time.monotonic()
            parts = self._train_epoch()
            row: dict[str, float] = {"epoch": self.epoch + 1, "lr": self.optimizer.param_groups[0]["lr"], **parts}
            due = (self.epoch + 1) % self.settings.evaluate_every == 0 or self.epoch + 1 == self.settings.epochs
            if due and processes.is_first():
                precision = evaluate(self._detector(), self.val)
                row |= {"map50": precision.map50, "map": precision.map}
                if precision.map50 > self.best:
                    self.best = precision.map50
                    self._save_weights("best.safetensors")
            self.epoch += 1
            if processes.is_first():
                row["seconds"] = time.monotonic() - start
                self.log.add(row)
                self._save_state()
                say(_line(row, self.settings.epochs))
            processes.wait()
        return precision

    # ---- one epoch ---------------------------------------------------------------------------------------------------

    def _train_epoch(self) -> dict[str, float]:
        s = self.settings
        plain = self.epoch >= s.epochs - s.plain_epochs
        if isinstance(self.loss, YOLOXLoss):
            self.loss.use_l1 = plain
        self.pictures.set_epoch(self.epoch)
        if isinstance(self.loader.sampler, DistributedSampler):
            self.loader.sampler.set_epoch(self.epoch)
        torch.manual_seed(s.seed * 100_003 + self.epoch)  # the order of the pictures, dropout
        self.forward.train()
        sums: dict[str, Tensor] = {}
        steps = len(self.loader)
        for step, (x, targets) in enumerate(self.loader):
            self._set_rates(self.epoch * steps + step, steps)
            last = (step + 1) % s.accumulate == 0 or step + 1 == steps
            parts = self._step(x.to(self.device), [t.to(self.device) for t in targets], last)
            for name, value in parts.items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value.detach()
        means = {name: processes.mean(value / steps).item() for name, value in sums.items()}
        if not all(map(_finite, means.values())):
            raise FloatingPointError(
                f"train: the loss is no longer a number in epoch {self.epoch + 1}: {means}; a smaller --lr, or no --amp"
            )
        return means

    def _step(self, x: Tensor, targets: Targets, last: bool) -> dict[str, Tensor]:
        s = self.settings
        if s.adversarial:
            x = self_adversarial(self.model, self.loss, x, targets, s.adversarial * self._range())
        with self._autocast():
            raw = self.forward(x)
        parts: dict[str, Tensor] = self.loss(raw, targets)
        self.scaler.scale(parts["loss"] / s.accumulate).backward()
        if last:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), s.clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            self.ema.update(self.model)
        return parts

    def _set_rates(self, step: int, steps_per_epoch: int) -> None:
        s = self.settings
        total = s.epochs * steps_per_epoch
        warmup = min(int(s.warmup_epochs * steps_per_epoch), total // 3)
        flat = min(s.plain_epochs, s.epochs // 3) * steps_per_epoch
        factor = warmup_cosine(step, total, warmup, s.final_lr, flat)
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr() * factor

    def _lr(self) -> float:
        s = self.settings
        batch = s.batch_size * s.accumulate
        return s.lr if s.optimizer == "adamw" else s.lr * batch / NOMINAL_BATCH

    def _range(self) -> float:
        p = self.pictures.preprocessing
        return 255.0 / p.scale / max(p.std)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        dtype = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.settings.amp)

    def _synchronised(self) -> bool:
        """BatchNorm over all processes: PyTorch's has no CPU kernels."""
        return processes.count() > 1 and self.device.type == "cuda"

    def _loader(self) -> DataLoader[Any]:
        s = self.settings
        sampler: DistributedSampler[Any] | None = None
        if processes.count() > 1:
            sampler = DistributedSampler(self.pictures, drop_last=True, seed=s.seed)
        size = s.batch_size // processes.count()
        if len(self.pictures) < s.batch_size:
            raise ValueError(f"train: {len(self.pictures)} pictures do not fill one batch of {s.batch_size}")
        return DataLoader(
            self.pictures,
            size,
            shuffle=sampler is None,
            sampler=sampler,
            num_workers=s.workers,
            collate_fn=collate,
            drop_last=True,
            persistent_workers=s.workers > 0,
            pin_memory=self.device.type == "cuda",
        )

    def _detector(self) -> Detector:
        network: Any = self.ema.module
        return Detector(
            network, names=self.names, size=self._eval_size(), score_threshold=0.001, iou_threshold=0.6,
            device=self.device, batch_size=self.settings.batch_size,
        )  # fmt: skip

    def _eval_size(self) -> int:
        return self.settings.eval_size or self.settings.size

    # ---- files -------------------------------------------------------------------------------------------------------

    def _save_weights(self, name: str) -> None:
        about = weight_files.About(self.settings.model, self.names, self._eval_size())
        weight_files.save(self.ema.module, self.folder / name, about)

    def _save_state(self) -> None:
        write_state(
            self.folder / "last.pt",
            self.settings,
            self.names,
            {
                "epoch": self.epoch,
                "best": self.best,
                "model": self.model.state_dict(),
                "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
            },
        )

    def _resume(self) -> None:
        path = self.folder / "last.pt"
        if not path.is_file():
            self.log.keep(0)
            return
        state = read_state(path, self.settings, self.names)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.best = state["epoch"], state["best"]
        self.log.keep(self.epoch)


def _loss(model: nn.Module, settings: Settings) -> nn.Module:
    """The family's loss with what ``settings`` change of it."""
    changes: dict[str, Any] = {}
    if settings.iou_kind != "family":
        changes["iou_kind" if isinstance(model, YOLOX) else "box_kind"] = settings.iou_kind
    if isinstance(model, YOLOv5) or getattr(model, "squared", False):
        changes["image_size"] = settings.size  # which their weight of the objectness follows
    if settings.box_weight:
        changes["box_weight"] = settings.box_weight
    if settings.label_smoothing:
        changes["label_smoothing"] = settings.label_smoothing
    try:
        return loss_for(model, **changes)
    except TypeError as error:
        raise ValueError(f"train: {settings.model}'s loss does not take {', '.join(changes)}: {error}") from None


def _average(model: nn.Module, settings: Settings, steps_per_epoch: int) -> ModelEMA:
    """An average that a short training can follow: YOLOX's 0.9998 would hold weights of its whole length."""
    updates = max(settings.epochs * -(-steps_per_epoch // settings.accumulate), 1)
    decay = settings.ema_decay or min(max(1 - 50 / updates, 0.0), 0.9998)
    return ModelEMA(model, decay, warmup=min(max(updates / 50, 1.0), 2000.0))


def _optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Weight decay for the weights of convolutions and linear layers only."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, settings.lr)
    return torch.optim.SGD(groups, settings.lr, settings.momentum, nesterov=settings.momentum > 0)


def _finite(value: float) -> bool:
    return abs(value) < float("inf")  # False for NaN too


def _line(row: dict[str, float], epochs: int) -> str:
    parts = " ".join(f"{k} {v:.3f}" for k, v in row.items() if k not in ("epoch", "lr", "seconds"))
    return f"epoch {row['epoch']:.0f}/{epochs} {parts} ({row['seconds']:.0f} s)"
