"""HRNet: Wang, Sun et al. 2019, arXiv:1908.07919, figure 2 and section 4; parameter names of the authors and of timm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.models.resnet import BasicBlock, Bottleneck
from cnnkernels.nn import FusedSequential, conv_bn_act


@dataclass(frozen=True)
class Stages:
    """Sizes of a trunk.  Branch i of stages 2 to 4 has ``width << i`` channels at stride ``4 << i``."""

    width: int
    modules: tuple[int, int, int] = (1, 4, 3)
    """Multi-resolution modules of stages 2, 3 and 4."""
    blocks: int = 4
    """Residual blocks of one branch of a module."""
    first_width: int = 64
    first_blocks: int = 4
    """Of the bottlenecks of stage 1, which return ``4 * first_width`` channels."""


def residual_layer(block: type[BasicBlock] | type[Bottleneck], channels: int, width: int, count: int) -> nn.Sequential:
    """count blocks at stride 1."""
    out, downsample = width * block.expansion, None
    if channels != out:
        downsample = FusedSequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out))
    return nn.Sequential(block(channels, width, 1, downsample), *(block(out, width, 1, None) for _ in range(count - 1)))


def _down(channels: int, out: int, times: int, act_at_end: bool) -> FusedSequential:
    """3x3 convolutions of stride 2, of which the last one changes the number of channels."""
    layers = [conv_bn_act(channels, channels, 3, 2, act="relu") for _ in range(times - 1)]
    if act_at_end:
        return FusedSequential(*layers, conv_bn_act(channels, out, 3, 2, act="relu"))
    last = FusedSequential(nn.Conv2d(channels, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out))
    return FusedSequential(*layers, last)


class HighResolutionModule(nn.Module):
    """Residual blocks on every branch, then every branch gets the sum of all, brought to its resolution and width.

    widths: channels of the branches, each at half the resolution of the one before.  blocks: per branch.
    multi_scale_output: False computes the first branch only.  x: one tensor per branch, returns a list of the same
    shapes.  The larger resolution must be a multiple of the smaller one: upsampling repeats pixels.
    """

    def __init__(self, widths: Sequence[int], blocks: int, multi_scale_output: bool = True) -> None:
        super().__init__()
        self.branches = nn.ModuleList(residual_layer(BasicBlock, c, c, blocks) for c in widths)
        rows = range(len(widths) if multi_scale_output else 1)
        self.fuse_layers: Any = nn.ModuleList(
            nn.ModuleList(self._path(widths, j, i) for j in range(len(widths))) for i in rows
        )
        self.relu = nn.ReLU(inplace=True)  # of a sum, which nobody else has

    @staticmethod
    def _path(widths: Sequence[int], source: int, target: int) -> nn.Module:
        channels, out = widths[source], widths[target]
        if source == target:
            return nn.Identity()
        if source < target:
            return _down(channels, out, target - source, act_at_end=False)
        return FusedSequential(
            nn.Conv2d(channels, out, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.Upsample(scale_factor=2 ** (source - target), mode="nearest"),
        )

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        branches = [branch(t) for branch, t in zip(self.branches, x, strict=True)]
        return [self._fused(i, row, branches) for i, row in enumerate(self.fuse_layers)]

    def _fused(self, target: int, row: Any, branches: list[Tensor]) -> Tensor:
        y = row[target](branches[target])
        for source, path in enumerate(row):
            if source != target:
                y = path(branches[source], residual=y)
        return self.relu(y)


class HRNetTrunk(Network):
    """Stem and four stages, for networks with a head of their own: ``add_trunk`` in the constructor, then ``branches``."""

    def add_trunk(self, stages: Stages, in_chans: int, multi_scale_output: bool = True) -> list[int]:
        """Adds the children; returns the channels of the last stage's branches.

        multi_scale_output: False: the last module returns the branch of the highest resolution only.
        """
        self.conv1 = nn.Conv2d(in_chans, 64, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = residual_layer(Bottleneck, 64, stages.first_width, stages.first_blocks)
        before = [stages.first_width * Bottleneck.expansion]
        for number, modules in enumerate(stages.modules, 2):
            widths = [stages.width << i for i in range(number)]
            self.add_module(f"transition{number - 1}", self._transition(before, widths))
            last = number == len(stages.modules) + 1
            every_scale = [multi_scale_output or not last or i < modules - 1 for i in range(modules)]
            self.add_module(
                f"stage{number}",
                nn.Sequential(*(HighResolutionModule(widths, stages.blocks, scales) for scales in every_scale)),
            )
            before = widths
        self._numbers = tuple(range(2, len(stages.modules) + 2))
        return before if multi_scale_output else before[:1]

    @staticmethod
    def _transition(before: list[int], widths: list[int]) -> nn.ModuleList:
        """One more branch, made from the last one; the others change their width where they must."""
        paths: list[nn.Module] = []
        for i, width in enumerate(widths):
            if i >= len(before):
                paths.append(_down(before[-1], width, i + 1 - len(before), act_at_end=True))
            elif before[i] == width:
                paths.append(nn.Identity())
            else:
                paths.append(conv_bn_act(before[i], width, 3, act="relu"))
        return nn.ModuleList(paths)

    def initialise(self, name: str, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """None: the branches run side by side, see ``branches``."""
        return ()

    def stem(self, x: Tensor) -> Tensor:
        """The first convolution: [N, 64, H / 2, W / 2]."""
        return self.fused(self._as_computed(x), "conv1", "bn1", "relu")

    def branches(self, stem: Tensor) -> list[Tensor]:
        """Outputs of the last stage, highest resolution first."""
        x = [self.layer1(self.fused(stem, "conv2", "bn2", "relu"))]
        children: dict[str, Any] = self._modules
        for number in self._numbers:
            paths = children[f"transition{number - 1}"]
            x = [path(x[min(i, len(x) - 1)]) for i, path in enumerate(paths)]
            x = children[f"stage{number}"](x)
        return x


class HRNet(HRNetTrunk):
    """Trunk; a bottleneck on every branch; from high to low resolution, each added to the next; pooling; linear layer.

    stages: sizes of the trunk.  x: [N, in_chans, H, W] with multiples of 32.  Feature maps: the stem (stride 2), then
    the four bottlenecks' outputs, as timm's.  Arguments and results else as in ``Network``.
    """

    head = ("downsamp_modules", "final_layer", "classifier")

    def __init__(
        self,
        stages: Stages,
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.0,
        **kw: Any,
    ) -> None:
        super().__init__()
        widths = self.add_trunk(stages, in_chans)
        inner = [32 << i for i in range(len(widths))]
        outs = [Bottleneck.expansion * c for c in inner]
        self.incre_modules = nn.ModuleList(
            residual_layer(Bottleneck, c, width, 1) for c, width in zip(widths, inner, strict=True)
        )
        self.downsamp_modules = nn.ModuleList(
            FusedSequential(nn.Conv2d(c, 2 * c, 3, 2, 1), nn.BatchNorm2d(2 * c), nn.ReLU(inplace=True))
            for c in outs[:-1]
        )
        self.final_layer = FusedSequential(nn.Conv2d(outs[-1], 2048, 1), nn.BatchNorm2d(2048), nn.ReLU(inplace=True))
        self.drop_rate = drop_rate
        self.classifier: Any = self.make_last_layer(2048, num_classes)
        shapes = [(64, 2), *((c, 4 << i) for i, c in enumerate(outs))]
        self.complete(shapes, features_only=features_only, **kw)

    def forward_maps(self, x: Tensor) -> list[Tensor]:
        assert self._maps is not None
        stem = self.stem(x)
        maps = [stem] if 0 in self._maps else []
        if self._maps == (0,):
            return maps
        branches = zip(self.incre_modules, self.branches(stem), strict=True)
        return maps + [module(t) for i, (module, t) in enumerate(branches, 1) if i in self._maps]

    def forward_features(self, x: Tensor) -> Tensor:
        wider = [module(t) for module, t in zip(self.incre_modules, self.branches(self.stem(x)), strict=True)]
        y = wider[0]
        for down, t in zip(self.downsamp_modules, wider[1:], strict=True):
            y = down(y, residual=t)
        return self.final_layer(y)

    def forward_head(self, x: Tensor) -> Tensor:
        return self.classifier(nn.functional.dropout(x.mean((2, 3)), self.drop_rate, self.training))


register("hrnet_w18", HRNet, stages=Stages(18), top1=76.8)
register("hrnet_w32", HRNet, stages=Stages(32), top1=78.5)
register("hrnet_w48", HRNet, stages=Stages(48), top1=79.3)
register("hrnet_w18_small_v1", HRNet, stages=Stages(16, (1, 1, 1), 2, 32, 1), top1=72.3)
register("hrnet_w18_small_v2", HRNet, stages=Stages(18, (1, 3, 2), 2, 64, 2), top1=75.1)
