"""Pose HRNet: Sun, Xiao, Liu, Wang 2019, arXiv:1902.09212, figure 1; parameter names of the authors."""

from __future__ import annotations

from torch import Tensor

from cnnkernels.models.hrnet import HRNetTrunk, Stages
from cnnkernels.models.pose_network import STRIDE, PoseNetwork
from cnnkernels.models.registry import register


class PoseHRNet(PoseNetwork, HRNetTrunk):
    """HRNet's trunk, whose last module computes the branch of the highest resolution only, and ``final_layer`` on it.

    width: channels of that branch.  num_classes: key points.  Arguments and results else as in ``PoseNetwork``.
    """

    def __init__(self, width: int, num_classes: int = 17, in_chans: int = 3) -> None:
        super().__init__()
        (channels,) = self.add_trunk(Stages(width), in_chans, multi_scale_output=False)
        self.final_layer = self.make_last_layer(channels, num_classes)
        self.complete([(channels, STRIDE)])

    def forward_features(self, x: Tensor) -> Tensor:
        """The last module's only branch: [N, width, H / 4, W / 4]."""
        return self.branches(self.stem(x))[0]


# AP on COCO val2017 with flipping, of the authors' repository; on MPII w32 has a PCKh@0.5 of 90.3.
for _width, _height, _ap in ((32, 256, 74.4), (32, 384, 75.8), (48, 256, 75.1), (48, 384, 76.3)):
    register(
        f"pose_hrnet_w{_width}_{_height}x{_height * 3 // 4}",
        PoseHRNet,
        input_size=_height,
        input_width=_height * 3 // 4,
        task="pose",
        ap=_ap,
        width=_width,
    )
for _width in (32, 48):
    register(f"pose_hrnet_w{_width}_256x256_mpii", PoseHRNet, input_size=256, task="pose", width=_width, num_classes=16)
