"""What a row of the comparison says, and how two networks come to hold the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.models import create_model


@dataclass(frozen=True)
class Case:
    """One of our networks beside an independent one with the same weights."""

    name: str
    oracle: Callable[[], nn.Module] | None
    """Makes the other network, without dropout; None where no package has it."""
    odd: tuple[int, int] = (97, 129)
    """A second image size: odd, so that paddings on one side show."""
    step_size: int = 64
    """Image size of the training step, which runs in float64."""
    ops: frozenset[str] = frozenset()
    """Ops that must run on the cpu backend in that step."""
    like: str = ""
    """A network of the same code with other numbers; the training step of this one, and the published size, then run only with
    CNNKERNELS_TEST_NETWORKS=all."""
    by_order: bool = False
    """The other network's tensors have other keys: match them in order of definition."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Arguments for our network."""

    def ours(self) -> nn.Module:
        return create_model(self.name, drop_rate=0.0, **self.config)

    def pair(self) -> tuple[nn.Module, nn.Module | None]:
        """Both with the same random weights, and running statistics that belong to them."""
        ours = self.ours()
        randomise(ours)
        calibrate(ours, self.step_size)
        if self.oracle is None:
            return ours, None
        other = self.oracle()
        copy_weights(ours, other, self.by_order)
        return ours, other


def randomise(model: nn.Module) -> None:
    """Weights of a size that keeps activations alive; every bias and every BatchNorm weight counts.

    The initial weights of some networks switch branches off (a BatchNorm weight of zero), which would hide errors.
    BatchNorm weights of 1 and more make a random network of 100 layers amplify the rounding of any float32
    implementation to 1e-3 of its output, ours and the other one alike (measured against float64); trained ones are
    below 1, and at 0.1 to 0.5 it stays below 4e-5.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            for name, p in module.named_parameters(recurse=False):
                if isinstance(module, nn.BatchNorm2d) and name == "weight":
                    p.uniform_(0.1, 0.5, generator=generator)
                elif p.dim() > 1:
                    p.normal_(0, (2 / p[0].numel()) ** 0.5, generator=generator)
                else:
                    p.normal_(0, 0.1, generator=generator)


def images(n: int, height: int, width: int | None = None, channels: int = 3, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, height, height if width is None else width, generator=generator)


def calibrate(model: nn.Module, height: int, width: int | None = None) -> None:
    """Running statistics as after training: those of a batch of images, ``images(4, height, width)``."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None
    with torch.no_grad():
        model.train()(images(4, height, width))
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum


def copy_weights(source: nn.Module, target: nn.Module, by_order: bool) -> None:
    state = source.state_dict()
    if by_order:
        state = dict(zip(target.state_dict(), state.values(), strict=True))
    target.load_state_dict(state, strict=True)
