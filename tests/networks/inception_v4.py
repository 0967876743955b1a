from functools import partial

from tests.networks.case import Case
from tests.oracles import pytorchcv_any_size, timm_model


def without_dropout():
    model = pytorchcv_any_size("inceptionresnetv1")
    model.output.dropout.p = 0.0
    return model


OPS = frozenset({"bn_act_train"})
CASES = [
    Case("inception_v4", partial(timm_model, "inception_v4", drop_rate=0.0), odd=(97, 139), step_size=96, ops=OPS),
    Case(
        "inception_resnet_v2",
        partial(timm_model, "inception_resnet_v2", drop_rate=0.0),
        odd=(97, 139),
        step_size=96,
        ops=OPS,
    ),
    Case(
        "inception_resnet_v1",
        without_dropout,
        odd=(97, 139),
        step_size=96,
        ops=OPS,
        by_order=True,
    ),
    Case("xception", partial(timm_model, "legacy_xception", drop_rate=0.0), odd=(97, 139), ops=OPS | {"dwconv_bn_act"}),
]
