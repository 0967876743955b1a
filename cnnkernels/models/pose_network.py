"""What pose networks have in common: an image of one person in, one heat map for each key point out."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from cnnkernels.models.network import Network

STRIDE = 4
"""Pixels of the image to one of a heat map."""


def check_image(network: str, x: Tensor, multiple: int) -> None:
    """Raises ValueError unless x is [N, C, H, W] with H and W multiples, so that heat maps have exactly H / 4 x W / 4."""
    if x.dim() != 4 or x.shape[2] % multiple or x.shape[3] % multiple or not x.shape[2] * x.shape[3]:
        raise ValueError(f"{network}: x must be [N, C, H, W] with H and W multiples of {multiple}, got {list(x.shape)}")


class PoseNetwork(Network):
    """A trunk and a 1x1 convolution, ``final_layer``, on its last feature map, of a quarter of the image's size.

    x: [N, in_chans, H, W], H and W multiples of 32: one person, RGB, normalised by ImageNet's mean and deviation.
    ``model(x)`` returns heat maps [N, num_classes, H / 4, W / 4], in training too; with ``num_classes=0`` what
    ``final_layer`` would have seen.  ``cnnkernels.detection.keypoints`` makes key points of them.

    A subclass names this class before the one of its trunk.  All convolutions start as normal numbers of deviation 0.001
    without biases, as in the code of both papers (Xiao et al. 2018, Sun et al. 2019), which trains on from ImageNet's
    weights of the trunk.
    """

    last_layer = "final_layer"
    multiple: ClassVar[int] = 32

    def _classifier(self, num_features: int, num_classes: int) -> nn.Module:
        return nn.Conv2d(num_features, num_classes, 1)

    def initialise(self, name: str, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, std=0.001)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def _forward(self, x: Tensor) -> Any:
        check_image(type(self).__name__, x, self.multiple)
        return super()._forward(x)

    def forward_head(self, x: Tensor) -> Tensor:
        """Heat maps of the last feature map."""
        final: Any = self.final_layer
        return final(x)
