from tests.networks.case import Case
from tests.oracles import torchvision_model

CASES = [
    Case(
        "mobilenet_v2",
        lambda: torchvision_model("mobilenet_v2", dropout=0.0),
        ops=frozenset({"dwconv_bn_act_train", "bn_act_train"}),
    )
]
