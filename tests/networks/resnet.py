from functools import partial

from tests.networks.case import Case
from tests.oracles import torchvision_model

CASES = [
    Case(name, partial(torchvision_model, name), ops=frozenset({"bn_act_train"}))
    for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
]
