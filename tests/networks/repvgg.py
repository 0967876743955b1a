from functools import partial

from tests.networks.case import Case
from tests.oracles import package, timm_model


def grouped_in_two(base):
    """timm defines the forms with four groups only; its parts make those with two."""
    package("timm")
    from dataclasses import replace

    from timm.models import byobnet

    of = byobnet.model_cfgs[base]
    blocks = byobnet._rep_vgg_bcfg(
        wf=tuple(b.c / c for b, c in zip(of.blocks, (64, 128, 256, 512), strict=True)), groups=2
    )
    return byobnet.ByobNet(replace(of, blocks=blocks))


CASES = [
    Case(
        f"repvgg_{name}",
        partial(grouped_in_two, f"repvgg_{name[:2]}") if name.endswith("g2") else partial(timm_model, f"repvgg_{name}"),
        ops=frozenset({"bn_act_train"}),
        by_order=True,
        like="" if name == "a0" else "repvgg_a0",
    )
    for name in ("a0", "a1", "a2", "b0", "b1", "b1g2", "b1g4", "b2", "b2g2", "b2g4", "b3", "b3g2", "b3g4")
]
