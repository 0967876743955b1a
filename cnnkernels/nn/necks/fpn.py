"""FPN: Lin et al. 2016, "Feature Pyramid Networks for Object Detection", arXiv:1612.03144, figure 3; torchvision's keys."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from cnnkernels.nn.necks._resize import check_maps, upsampled
from cnnkernels.nn.sequential import FusedSequential, plus


class FPN(nn.Module):
    """A path from coarse to fine: every map, narrowed by a 1x1 convolution, plus the coarser one; 3x3 convolutions behind.

    in_channels: of the maps, finest first.  channels: of every result; ``self.channels`` lists them.
    Keys: ``inner_blocks.N.0`` (1x1) and ``layer_blocks.N.0`` (3x3), with biases.

    maps: a list of [N, in_channels[i], H_i, W_i], of any sizes that do not grow.  Returns a list of
    [N, channels, H_i, W_i].  Raises ValueError for other channels.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        if not in_channels:
            raise ValueError("FPN: in_channels must be of at least one map, got none")
        self._in_channels, self.channels = list(in_channels), [channels] * len(in_channels)
        self.inner_blocks = nn.ModuleList(FusedSequential(nn.Conv2d(c, channels, 1)) for c in in_channels)
        self.layer_blocks = nn.ModuleList(
            FusedSequential(nn.Conv2d(channels, channels, 3, padding=1)) for _ in in_channels
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        check_maps("FPN", maps, self._in_channels)
        *finer, last = zip(maps, self.inner_blocks, strict=True)
        inner = [last[1](last[0])]
        for x, lateral in reversed(finer):
            inner.insert(0, plus(lateral, x, upsampled(inner[0], x.shape[2:])))
        return [block(x) for block, x in zip(self.layer_blocks, inner, strict=True)]
