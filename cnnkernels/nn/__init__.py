"""Drop-in modules: ordinary children, parameters and keys, computed by the fused ops wherever nobody would notice."""

from cnnkernels.nn._block import FusedBlock
from cnnkernels.nn.activation import Activation, Mish, create_activation
from cnnkernels.nn.attention import CBAM, EfficientChannelAttention
from cnnkernels.nn.blocks import (
    ChannelShuffle,
    Fire,
    InvertedResidual,
    ShuffleStage,
    ShuffleUnit,
    SqueezeExcite,
    conv_bn_act,
)
from cnnkernels.nn.cm_batch_norm import CmBatchNorm2d
from cnnkernels.nn.conv import ConvBNAct, DWConvBNAct
from cnnkernels.nn.conv_same import Conv2dSame
from cnnkernels.nn.csp import C3, Bottleneck, CSPLayer
from cnnkernels.nn.darknet_blocks import CBL, CBM, CSPX, DarknetSPP, ResUnit, ResX, TinyCSP
from cnnkernels.nn.decoupled_head import DecoupledHead
from cnnkernels.nn.depthwise_separable import DepthwiseSeparable, depthwise_separable
from cnnkernels.nn.drop_block import DropBlock2d, linear_drop_prob
from cnnkernels.nn.focus import Focus
from cnnkernels.nn.linear import Linear
from cnnkernels.nn.max_pool import MaxPool2d
from cnnkernels.nn.mbconv import MBConv, StochasticDepth
from cnnkernels.nn.repvgg import RepVGGBlock
from cnnkernels.nn.separable import SeparableConv2d
from cnnkernels.nn.sequential import FusedSequential
from cnnkernels.nn.spp import SPP, SPPF

__all__ = [
    "C3",
    "CBAM",
    "CBL",
    "CBM",
    "CSPX",
    "SPP",
    "SPPF",
    "Activation",
    "Bottleneck",
    "CSPLayer",
    "ChannelShuffle",
    "CmBatchNorm2d",
    "Conv2dSame",
    "ConvBNAct",
    "DWConvBNAct",
    "DarknetSPP",
    "DecoupledHead",
    "DepthwiseSeparable",
    "DropBlock2d",
    "EfficientChannelAttention",
    "Fire",
    "Focus",
    "FusedBlock",
    "FusedSequential",
    "InvertedResidual",
    "Linear",
    "MBConv",
    "MaxPool2d",
    "Mish",
    "RepVGGBlock",
    "ResUnit",
    "ResX",
    "SeparableConv2d",
    "ShuffleStage",
    "ShuffleUnit",
    "SqueezeExcite",
    "StochasticDepth",
    "TinyCSP",
    "conv_bn_act",
    "create_activation",
    "depthwise_separable",
    "linear_drop_prob",
]
