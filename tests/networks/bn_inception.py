from torch import nn

from tests.networks.case import Case
from tests.oracles import pretrainedmodels_model


def any_size():
    model = pretrainedmodels_model("bninception")
    model.global_pool = nn.AdaptiveAvgPool2d(1)  # theirs is 7x7, the same at the published size
    return model


OPS = frozenset({"bn_act_train"})
CASES = [
    Case("bn_inception", any_size, ops=OPS),
    Case("se_bn_inception", None, ops=OPS),
]
