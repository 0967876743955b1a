from functools import partial

from tests.networks.case import Case
from tests.oracles import timm_model

OPS = frozenset({"bn_act_train", "squeeze_excite"})
NAMES = ("seresnet18", "seresnet34", "seresnet50", "seresnet101", "seresnet152")
NEXT = ("seresnext50_32x4d", "seresnext101_32x4d")


CASES = [
    *(Case(name, partial(timm_model, name), ops=OPS) for name in NAMES + NEXT),
    Case("senet154", partial(timm_model, "legacy_senet154", drop_rate=0.0), ops=OPS, odd=(65, 97), step_size=96),
]
