"""Simple baselines for pose estimation: Xiao, Wu, Wei 2018, arXiv:1804.06208, figure 1 (c); the authors' parameter names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from cnnkernels.models.pose_network import PoseNetwork
from cnnkernels.models.registry import register
from cnnkernels.models.resnet import Bottleneck, ResNetTrunk
from cnnkernels.nn import FusedSequential


def deconv_bn_relu(channels: int, out: int) -> list[nn.Module]:
    """4x4 transposed convolution that doubles the resolution, BatchNorm, ReLU."""
    return [
        nn.ConvTranspose2d(channels, out, 4, 2, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    ]


class PoseResNet(PoseNetwork, ResNetTrunk):
    """ResNet's trunk, three transposed convolutions with 256 channels, and ``final_layer``.

    layers: bottlenecks per stage.  num_classes: key points.  Arguments and results else as in ``PoseNetwork``.  The
    trunk's keys are those of ``ResNet``, so its ImageNet weights fit.
    """

    def __init__(self, layers: Sequence[int], num_classes: int = 17, in_chans: int = 3) -> None:
        super().__init__()
        shapes = self.add_trunk(Bottleneck, layers, in_chans)
        channels, stride = shapes[-1]
        width, children = 256, list[nn.Module]()
        for _ in range(3):
            children += deconv_bn_relu(channels, width)
            channels, stride = width, stride // 2
        self.deconv_layers = FusedSequential(*children)
        self.final_layer = self.make_last_layer(width, num_classes)
        self.complete([*shapes, (channels, stride)])

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return [*super().steps(), self.deconv_layers]


_LAYERS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# AP on COCO val2017 with flipping, of the authors' repository; on MPII the PCKh@0.5 is 88.5, 89.1 and 89.6.
_AP = {(50, 256): 70.4, (50, 384): 72.2, (101, 256): 71.4, (101, 384): 73.6, (152, 256): 72.0, (152, 384): 74.3}
for (_depth, _height), _ap in _AP.items():
    register(
        f"pose_resnet{_depth}_{_height}x{_height * 3 // 4}",
        PoseResNet,
        input_size=_height,
        input_width=_height * 3 // 4,
        task="pose",
        ap=_ap,
        layers=_LAYERS[_depth],
    )
for _depth, _layers in _LAYERS.items():
    register(
        f"pose_resnet_res{_depth}_256x256_mpii",
        PoseResNet,
        input_size=256,
        task="pose",
        layers=_layers,
        num_classes=16,
    )
