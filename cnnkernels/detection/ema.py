"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn


class ModelEMA:
    """``ema.update(model)`` after each optimizer step; ``ema.module`` is the averaged model, in evaluation.

    After update t the average is ``d * average + (1 - d) * model`` with ``d = decay * (1 - exp(-t / warmup))``: the
    first updates follow the model closely (YOLOv5's and YOLOX's form).  Floating-point parameters and buffers are averaged, in
    their own dtype; other buffers (BatchNorm's counters) are copied.

    model: copied; of a wrapper (DistributedDataParallel, DataParallel, torch.compile) the model within.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, warmup: float = 2000.0) -> None:
        if not 0 <= decay <= 1 or warmup <= 0:
            raise ValueError(f"ModelEMA: decay must be from 0 to 1 and warmup positive, got {decay} and {warmup}")
        self.module: nn.Module = copy.deepcopy(_within(model)).eval().requires_grad_(False)
        self.decay, self.warmup = decay, warmup
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """ValueError if the model's entries are not those of the average."""
        average, current = _tensors(self.module), _tensors(_within(model))
        if average.keys() != current.keys():
            different = sorted(average.keys() ^ current.keys())[:5]
            raise ValueError(f"ModelEMA: the model has changed: {', '.join(different)}")
        self.updates += 1
        share = 1 - self.decay * (1 - math.exp(-self.updates / self.warmup))
        floating = [name for name, value in average.items() if value.is_floating_point()]
        if floating:
            new = [current[name].to(average[name]) for name in floating]
            torch._foreach_lerp_([average[name] for name in floating], new, share)
        for name in average.keys() - set(floating):
            average[name].copy_(current[name])

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "model": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["model"])
        self.updates = int(state["updates"])


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers; one that has several names once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _within(model: nn.Module) -> nn.Module:
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        model = model.module
    return getattr(model, "_orig_mod", model)  # what torch.compile wrapped
