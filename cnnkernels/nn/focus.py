"""The stem of YOLOv5 (to 5.0) and YOLOX: every 2x2 block of pixels becomes one with four times the channels."""

from __future__ import annotations

from torch import Tensor, nn

from cnnkernels.nn.csp import CBS, ConvFactory
from cnnkernels.ops.focus import focus


class Focus(nn.Module):
    """A convolution over the four images that hold every second row and column of x, halving the resolution without loss.

    Their channels follow each other: (row, column) even-even, odd-even, even-odd, odd-odd.  With a 3x3 kernel it equals one
    6x6 convolution of stride 2 and padding 2, which took its place in YOLOv5 6.0.

    conv: makes the child ``conv``, of 4 * in_channels.

    x: [N, in_channels, H, W] with even H and W, returns [N, out_channels, H / 2, W / 2].
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, conv: ConvFactory = CBS
    ) -> None:
        super().__init__()
        self.conv = conv(4 * in_channels, out_channels, kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(focus(x))  # type: ignore[no-any-return]
