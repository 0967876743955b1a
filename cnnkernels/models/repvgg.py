"""RepVGG: Ding, Zhang, Ma, Han, Ding, Sun 2021, arXiv:2101.03697, tables 2 and 3; the authors' parameter names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import RepVGGBlock
from cnnkernels.nn.repvgg import merge_branches


class RepVGG(Network):
    """Five stages of ``RepVGGBlock``, each of which begins by halving the resolution; pooling; one linear layer.

    blocks: per stage after the first, which is one block.  width_mult: of 64, 128, 256 and 512 channels.
    groups: of every other block ("g2", "g4"), counted through the network.
    deploy: builds the form in which every block is one 3x3 convolution with a bias.

    Arguments and results else as in ``Network``.
    """

    last_layer = "linear"

    def __init__(
        self,
        blocks: Sequence[int],
        width_mult: Sequence[float],
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.0,
        groups: int = 1,
        deploy: bool = False,
        **kw: Any,
    ) -> None:
        super().__init__()
        channels, index = min(64, int(64 * width_mult[0])), 0
        self.stage0 = RepVGGBlock(in_chans, channels, 2, deploy=deploy)
        shapes = [(channels, 2)]
        for stage, (count, factor) in enumerate(zip(blocks, width_mult, strict=True)):
            width, layers = int((64 << stage) * factor), []
            for i in range(count):
                index += 1
                layers.append(
                    RepVGGBlock(channels, width, 2 if i == 0 else 1, 1 if index % 2 else groups, deploy=deploy)
                )
                channels = width
            self.add_module(f"stage{stage + 1}", nn.Sequential(*layers))
            shapes.append((channels, 4 << stage))
        self.drop_rate = drop_rate
        self.linear: Any = self.make_last_layer(channels, num_classes)
        self.complete(shapes, features_only=features_only, **kw)

    def initialise(self, name: str, module: nn.Module) -> None:
        """Nothing: the authors' code keeps PyTorch's initial weights."""

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return [child for name, child in self._modules.items() if name.startswith("stage")]  # type: ignore[misc]

    def deploy(self) -> RepVGG:
        """Turns every block into its deploy form, in place and for good; returns the model.

        ValueError where a block cannot be merged (hooks, parametrisations, no running statistics).
        """
        for module in self.modules():
            if isinstance(module, RepVGGBlock):
                module.switch_to_deploy()
        return self


def convert_repvgg(state: Mapping[str, Tensor], eps: float = 1e-5) -> dict[str, Tensor]:
    """The state of the deploy form from that of the training form; what belongs to no block is passed on.

    eps: of the BatchNorms that the state comes from.  KeyError where a block lacks a tensor.
    """
    dense_weight = "rbr_dense.conv.weight"
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        if "rbr_" not in key or "rbr_reparam." in key:
            converted[key] = value
        elif key.endswith(dense_weight):
            block = key.removesuffix(dense_weight)

            def norm(name: str, block: str = block) -> Any:
                names = ("weight", "bias", "running_mean", "running_var")
                return SimpleNamespace(eps=eps, **{n: state[f"{block}{name}.{n}"] for n in names})

            def branch(name: str, block: str = block) -> tuple[Any, Any]:
                conv = SimpleNamespace(weight=state[f"{block}{name}.conv.weight"], bias=None)
                return conv, norm(f"{name}.bn")

            identity = norm("rbr_identity") if f"{block}rbr_identity.weight" in state else None
            with torch.no_grad():
                weight, bias = merge_branches(branch("rbr_dense"), branch("rbr_1x1"), identity)
            converted[f"{block}rbr_reparam.weight"], converted[f"{block}rbr_reparam.bias"] = weight, bias
    return converted


_A, _B = (2, 4, 14, 1), (4, 6, 16, 1)
register("repvgg_a0", RepVGG, blocks=_A, width_mult=(0.75, 0.75, 0.75, 2.5), top1=72.41)
register("repvgg_a1", RepVGG, blocks=_A, width_mult=(1, 1, 1, 2.5), top1=74.46)
register("repvgg_a2", RepVGG, blocks=_A, width_mult=(1.5, 1.5, 1.5, 2.75), top1=76.48)
register("repvgg_b0", RepVGG, blocks=_B, width_mult=(1, 1, 1, 2.5), top1=75.14)
register("repvgg_b1", RepVGG, blocks=_B, width_mult=(2, 2, 2, 4), top1=78.37)
register("repvgg_b1g2", RepVGG, blocks=_B, width_mult=(2, 2, 2, 4), groups=2, top1=77.78)
register("repvgg_b1g4", RepVGG, blocks=_B, width_mult=(2, 2, 2, 4), groups=4, top1=77.58)
register("repvgg_b2", RepVGG, blocks=_B, width_mult=(2.5, 2.5, 2.5, 5), top1=78.78)
register("repvgg_b2g2", RepVGG, blocks=_B, width_mult=(2.5, 2.5, 2.5, 5), groups=2)
register("repvgg_b2g4", RepVGG, blocks=_B, width_mult=(2.5, 2.5, 2.5, 5), groups=4, top1=78.5)
register("repvgg_b3", RepVGG, blocks=_B, width_mult=(3, 3, 3, 5), top1=80.52)
register("repvgg_b3g2", RepVGG, blocks=_B, width_mult=(3, 3, 3, 5), groups=2)
register("repvgg_b3g4", RepVGG, blocks=_B, width_mult=(3, 3, 3, 5), groups=4, top1=80.21)
