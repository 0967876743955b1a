from functools import partial

from tests.networks.case import Case
from tests.oracles import pytorchcv_any_size

OPS = {"dwconv_bn_act_train", "bn_act_train"}

CASES = [
    Case(
        f"shufflenet_v1_g{groups}",
        partial(pytorchcv_any_size, f"shufflenet_g{groups}_w1"),
        ops=frozenset(OPS if groups == 1 else OPS | {"channel_shuffle"}),
        like="" if groups in (1, 3) else "shufflenet_v1_g3",
    )
    for groups in (1, 2, 3, 4, 8)
]
