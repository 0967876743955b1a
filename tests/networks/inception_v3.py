from functools import partial

from tests.networks.case import Case
from tests.oracles import torchvision_model

CASES = [
    Case(
        "inception_v3",
        partial(torchvision_model, "inception_v3", aux_logits=False, init_weights=False, dropout=0.0),
        odd=(97, 139),
        step_size=96,
        ops=frozenset({"bn_act_train"}),
    )
]
