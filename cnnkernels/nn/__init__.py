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
from cnnkernels.nn.conv import ConvBNAct, DWConvBNAct
from cnnkernels.nn.conv_same import Conv2dSame
from cnnkernels.nn.linear import Linear
from cnnkernels.nn.max_pool import MaxPool2d
from cnnkernels.nn.mbconv import MBConv, StochasticDepth
from cnnkernels.nn.repvgg import RepVGGBlock
from cnnkernels.nn.sequential import FusedSequential

__all__ = [
    "CBAM",
    "Activation",
    "ChannelShuffle",
    "Conv2dSame",
    "ConvBNAct",
    "DWConvBNAct",
    "EfficientChannelAttention",
    "Fire",
    "FusedBlock",
    "FusedSequential",
    "InvertedResidual",
    "Linear",
    "MBConv",
    "MaxPool2d",
    "Mish",
    "RepVGGBlock",
    "ShuffleStage",
    "ShuffleUnit",
    "SqueezeExcite",
    "StochasticDepth",
    "conv_bn_act",
    "create_activation",
]
