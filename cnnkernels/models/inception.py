"""What the Inception networks share: convolution + BatchNorm + ReLU, parallel branches, auxiliary classifiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnkernels.models.network import Network
from cnnkernels.nn import ConvBNAct, FusedBlock, Linear, MaxPool2d

Layer = tuple[Any, ...]
"""(channels, kernel_size): stride 1, the size is kept; (channels, kernel_size, stride): no padding."""


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel_size: Any, stride: int = 1, padding: int | None = None
) -> ConvBNAct:
    """Children conv (no bias), bn (eps 1e-3) and act.  padding: None keeps the size at stride 1."""
    block = ConvBNAct(in_channels, out_channels, kernel_size, stride, padding, act="relu", eps=1e-3)
    block.act.inplace = True
    return block


def convolutions(in_channels: int, layers: Sequence[Layer]) -> list[nn.Module]:
    """One ``conv_bn_relu`` after another."""
    made: list[nn.Module] = []
    for out_channels, kernel_size, *stride in layers:
        made.append(conv_bn_relu(in_channels, out_channels, kernel_size, *stride, *([0] if stride else [])))
        in_channels = out_channels
    return made


def branch(in_channels: int, *layers: Layer, pool: nn.Module | None = None) -> nn.Module:
    """Pooling, if any, and convolutions; a single layer comes without a Sequential around it."""
    made = ([] if pool is None else [pool]) + convolutions(in_channels, layers)
    return made[0] if len(made) == 1 else nn.Sequential(*made)


class Branches(FusedBlock):
    """Its children over the same x, [N, C, H, W], and their results joined along the channels in order."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        self.branches = tuple(branches)
        for name, module in branches.items():
            self.add_module(name, module)

    def joined(self, x: Tensor) -> Tensor:
        """The branches' results; a subclass may have further children that are none."""
        return torch.cat([self._modules[name](x) for name in self.branches], dim=1)  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        return self.joined(x)


Path = tuple[Any, ...]
"""Steps of one branch of ``Mixed``: (name, *layer) a convolution, a list of such convolutions side by side, or the name
of a pooling: "average" (3x3, the padding counts), "max" (3x3, stride 2)."""

_POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "average": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "max": MaxPool2d(3, 2),
}


class Mixed(nn.Module):
    """Branches whose convolutions are all children of the block itself, as in torchvision's Inception v3.

    x: [N, in_channels, H, W].  Returns the branches joined in order; ``channels``: how many that are.
    """

    def __init__(self, in_channels: int, *paths: Path) -> None:
        super().__init__()
        self.channels = 0
        self.paths: list[list[str | list[str]]] = []
        for path in paths:
            channels, names = in_channels, list[str | list[str]]()
            for step in path:
                if isinstance(step, str):
                    names.append(step)
                    continue
                beside = step if isinstance(step, list) else [step]
                for name, *layer in beside:
                    self.add_module(name, convolutions(channels, [tuple(layer)])[0])
                channels = sum(layer[1] for layer in beside)
                names.append([layer[0] for layer in beside])
            self.paths.append(names)
            self.channels += channels

    def forward(self, x: Tensor) -> Tensor:
        results = []
        for path in self.paths:
            ends = [x]
            for step in path:
                if isinstance(step, str):
                    ends = [_POOLS[step](ends[0])]
                else:
                    ends = [self._modules[name](ends[0]) for name in step]  # type: ignore[misc]
            results += ends
        return torch.cat(results, dim=1)


class AuxiliaryNetwork(Network):
    """A network with classifiers halfway, whose logits join the loss in training.

    Szegedy et al. 2014, "Going Deeper with Convolutions", arXiv:1409.4842, section 5.

    With ``aux_logits=True`` ``model.train()(x)`` returns a named tuple of logits; in evaluation, logits as ever.  Without,
    the heads do not exist, and a checkpoint may have them.
    transform_input: x is normalised for torchvision's weights and the network's are TensorFlow's (mean and standard
    deviation 0.5).
    """

    aux_heads: ClassVar[dict[str, tuple[str, str]]]
    """Name of each auxiliary head: (child whose result it sees, its last layer)."""
    outputs: ClassVar[Any]
    """The named tuple that training returns: the logits, then those of the heads, in reverse order."""

    transform_input = False

    def complete(self, shapes: Sequence[tuple[int, int]], **kw: Any) -> None:
        in_chans = next(m.in_channels for m in self.modules() if isinstance(m, nn.Conv2d))
        if self.transform_input and in_chans != 3:
            raise ValueError(f"{type(self).__name__}: transform_input is for in_chans=3, got in_chans={in_chans}")
        super().complete(shapes, **kw)
        if self.num_classes == 0 or self._maps is not None:
            self._drop_heads()
        self.left_out = (*self.left_out, *(f"{name}." for name in self.aux_heads if name not in self._modules))

    def _drop_heads(self) -> None:
        for name in self.aux_heads:
            self._modules.pop(name, None)

    def _as_computed(self, x: Tensor) -> Tensor:
        if self.transform_input:
            mean, std = x.new_tensor([0.485, 0.456, 0.406]), x.new_tensor([0.229, 0.224, 0.225])
            x = x * (std / 0.5).view(1, 3, 1, 1) + ((mean - 0.5) / 0.5).view(1, 3, 1, 1)
        return super()._as_computed(x)

    def _forward(self, x: Tensor) -> Any:
        heads = {id(self._modules[after]): self._modules[name] for name, (after, _) in self.aux_heads.items()
                 if name in self._modules}  # fmt: skip
        if not (self.training and heads):
            return super()._forward(x)
        x, aux = self._as_computed(x), []
        for step in self.steps():
            x = step(x)
            if id(step) in heads:
                aux.append(heads[id(step)](x))  # type: ignore[misc]
        return self.outputs(self.forward_head(x), *reversed(aux))

    def reset_classifier(self, num_classes: int) -> None:
        """As in ``Network``; auxiliary heads get a new last layer too, and go where there are no classes."""
        super().reset_classifier(num_classes)
        if num_classes == 0:
            self._drop_heads()
        for name, (_, last) in self.aux_heads.items():
            head: Any = self._modules.get(name)
            if head is not None:
                old = getattr(head, last)
                new = Linear(old.in_features, num_classes).to(old.weight.device, old.weight.dtype)
                self.initialise(f"{name}.{last}", new)
                setattr(head, last, new)
