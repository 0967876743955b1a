from functools import partial

from tests.networks.case import Case
from tests.oracles import torchvision_model

CASES = [Case(name, partial(torchvision_model, name, dropout=0.0)) for name in ("squeezenet1_0", "squeezenet1_1")]
