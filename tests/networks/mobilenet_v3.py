from functools import partial

from tests.networks.case import Case
from tests.oracles import torchvision_model

OPS = frozenset({"dwconv_bn_act_train", "bn_act_train", "squeeze_excite", "squeeze_excite_backward"})

CASES = [
    Case(name, partial(torchvision_model, name, dropout=0.0), ops=OPS)
    for name in ("mobilenet_v3_large", "mobilenet_v3_small")
]
