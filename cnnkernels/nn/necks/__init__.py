"""Necks: they take a list of feature maps of a backbone, finest first, and give a list of maps.

``create_model(name, features_only=True, out_indices=(-3, -2, -1))`` gives such maps, at the strides 8, 16 and 32; its
``channels`` are a neck's first argument.  A neck's own ``channels`` are those of its results.
"""

from cnnkernels.nn.necks.asff import ASFF, ASFFLevel
from cnnkernels.nn.necks.bifpn import BiFPN, BiFPNCell, BiFPNFusion
from cnnkernels.nn.necks.fpn import FPN
from cnnkernels.nn.necks.nas_fpn import NASFPN
from cnnkernels.nn.necks.pan import PAN

__all__ = ["ASFF", "FPN", "NASFPN", "PAN", "ASFFLevel", "BiFPN", "BiFPNCell", "BiFPNFusion"]
