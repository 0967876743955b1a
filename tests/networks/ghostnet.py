from functools import partial

from tests.networks.case import Case
from tests.oracles import timm_model

OPS = frozenset({"dwconv_bn_act_train", "bn_act_train", "squeeze_excite", "squeeze_excite_backward"})

CASES = [
    Case(name, partial(timm_model, oracle, drop_rate=0.0), ops=OPS, like="" if name == "ghostnet" else "ghostnet")
    for name, oracle in (
        ("ghostnet", "ghostnet_100"),
        ("ghostnet_050", "ghostnet_050"),
        ("ghostnet_130", "ghostnet_130"),
    )
]
