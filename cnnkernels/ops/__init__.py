"""The ops: one file each, which is the op's whole contract."""

from cnnkernels.ops.activation import activation, mish
from cnnkernels.ops.bn_act import bn_act
from cnnkernels.ops.bn_act_train import bn_act_train
from cnnkernels.ops.box_iou_loss import box_iou_loss
from cnnkernels.ops.channel_shuffle import channel_shuffle, concat_shuffle_split
from cnnkernels.ops.detection_candidates import detection_candidates
from cnnkernels.ops.dwconv_bn_act import dwconv_bn_act
from cnnkernels.ops.dwconv_bn_act_train import dwconv_bn_act_train
from cnnkernels.ops.focus import focus
from cnnkernels.ops.nms import batched_diou_nms, diou_nms, nms, nms_padded
from cnnkernels.ops.pointwise_conv_bn_act import pointwise_conv_bn_act
from cnnkernels.ops.spp import spp
from cnnkernels.ops.squeeze_excite import squeeze_excite
from cnnkernels.ops.upsample_add import upsample_add
from cnnkernels.ops.weighted_fusion import weighted_fusion

__all__ = [
    "activation",
    "batched_diou_nms",
    "bn_act",
    "bn_act_train",
    "box_iou_loss",
    "channel_shuffle",
    "concat_shuffle_split",
    "detection_candidates",
    "diou_nms",
    "dwconv_bn_act",
    "dwconv_bn_act_train",
    "focus",
    "mish",
    "nms",
    "nms_padded",
    "pointwise_conv_bn_act",
    "spp",
    "squeeze_excite",
    "upsample_add",
    "weighted_fusion",
]
