from functools import partial

from tests.networks.case import Case
from tests.oracles import timm_model

OPS = frozenset({"bn_act_train", "squeeze_excite", "dwconv_bn_act"})
CASES = [
    Case(name, partial(timm_model, name, drop_rate=0.0), ops=OPS, step_size=96)
    for name in ("mixnet_s", "mixnet_m", "mixnet_l")
]
