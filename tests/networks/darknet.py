from functools import partial

from torch import nn

from tests.networks.case import Case
from tests.oracles import timm_model


def oracle(name):
    """With the slope of the authors' configuration files."""
    model = timm_model(name)
    for module in model.modules():
        if isinstance(module, nn.LeakyReLU):
            module.negative_slope = 0.1
    return model


CASES = [Case(name, partial(oracle, name), ops=frozenset({"bn_act_train"})) for name in ("darknet53", "cspdarknet53")]
