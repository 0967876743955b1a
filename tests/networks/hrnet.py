from functools import partial

from tests.networks.case import Case
from tests.oracles import timm_model

CASES = [
    Case(
        name,
        partial(timm_model, name.removesuffix("_v1")),
        odd=(96, 160),  # nearest upsampling fits multiples of 32 only
        ops=frozenset({"bn_act_train"}),
        like="" if "small" in name else "hrnet_w18_small_v2",
    )
    for name in ("hrnet_w18", "hrnet_w32", "hrnet_w48", "hrnet_w18_small_v1", "hrnet_w18_small_v2")
]
