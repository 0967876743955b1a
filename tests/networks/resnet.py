from functools import partial

from tests.networks.case import Case
from tests.oracles import torchvision_model

NAMES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
NEXT = ("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d")

CASES = [Case(name, partial(torchvision_model, name), ops=frozenset({"bn_act_train"})) for name in NAMES + NEXT]
