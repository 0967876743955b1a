from functools import partial

from tests.networks.case import Case
from tests.oracles import torchvision_model


def case(depth: int, suffix: str) -> Case:
    name = f"vgg{depth}{suffix}"
    return Case(
        name,
        partial(torchvision_model, name, dropout=0.0),
        ops=frozenset({"bn_act_train"}) if suffix else frozenset(),
        step_size=32,
        like="" if depth == 11 else f"vgg11{suffix}",  # 16 s each, for the 100 M weights of their linear layers
    )


CASES = [case(depth, suffix) for depth in (11, 13, 16, 19) for suffix in ("", "_bn")]
