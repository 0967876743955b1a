import importlib
from functools import partial

from torch import nn

from tests.networks.case import Case
from tests.oracles import package, pytorchcv_any_size

LAYERS = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3), "50": (3, 4, 6, 3), "101": (3, 4, 23, 3)}


def eca(depth):
    """timm's own ECA-ResNets have another stem (ResNet-D); this is the paper's."""
    package("timm")
    resnet = importlib.import_module("timm.models.resnet")
    block = resnet.BasicBlock if depth in ("18", "34") else resnet.Bottleneck
    return resnet.ResNet(block, LAYERS[depth], block_args={"attn_layer": "eca"})


def cbam(depth):
    """With the momentum that the authors' code has in the spatial gate."""
    model = pytorchcv_any_size(f"cbam_resnet{depth}")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.num_features == 1:
            module.momentum = 0.01
    return model


OPS = frozenset({"bn_act_train"})

CASES = [
    *(Case(f"ecaresnet{d}", partial(eca, d), ops=OPS) for d in LAYERS),
    *(Case(f"cbam_resnet{d}", partial(cbam, d), ops=OPS, by_order=True) for d in LAYERS),
]
