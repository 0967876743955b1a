from functools import partial

from tests.networks.case import Case
from tests.oracles import pytorchcv_any_size

ORACLES = {"mobilenet_v1": "w1", "mobilenet_v1_075": "w3d4", "mobilenet_v1_050": "wd2", "mobilenet_v1_025": "wd4"}

CASES = [
    Case(
        name,
        partial(pytorchcv_any_size, f"mobilenet_{width}"),
        ops=frozenset({"dwconv_bn_act_train", "bn_act_train"}),
        like="" if name == "mobilenet_v1_025" else "mobilenet_v1_025",
    )
    for name, width in ORACLES.items()
]
