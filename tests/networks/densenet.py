from functools import partial

from tests.networks.case import Case
from tests.oracles import torchvision_model

OPS = frozenset({"bn_act_train"})
CASES = [
    Case(name, partial(torchvision_model, name), ops=OPS) for name in ("densenet121", "densenet169", "densenet201")
]
