from functools import partial

from tests.networks.case import Case
from tests.oracles import torchvision_model

CASES = [Case("alexnet", partial(torchvision_model, "alexnet", dropout=0.0))]
