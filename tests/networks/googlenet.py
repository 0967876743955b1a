from functools import partial

from tests.networks.case import Case
from tests.oracles import torchvision_model

CASES = [
    Case(
        "googlenet",
        partial(torchvision_model, "googlenet", aux_logits=False, init_weights=False, dropout=0.0),
        ops=frozenset({"bn_act_train"}),
    )
]
