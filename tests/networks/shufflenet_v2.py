from functools import partial

from tests.networks.case import Case
from tests.oracles import torchvision_model

OPS = frozenset({"dwconv_bn_act_train", "bn_act_train", "channel_shuffle", "concat_shuffle_split"})

CASES = [
    Case(name, partial(torchvision_model, name), ops=OPS)
    for name in ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0")
]
