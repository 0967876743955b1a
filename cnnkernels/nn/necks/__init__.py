"""Necks: they take a list of feature maps of a backbone, finest first, and give a list of maps."""

from cnnkernels.nn.necks.bifpn import BiFPN, BiFPNCell, BiFPNFusion

__all__ = ["BiFPN", "BiFPNCell", "BiFPNFusion"]
