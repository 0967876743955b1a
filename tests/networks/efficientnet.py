from functools import partial

from tests.networks.case import Case
from tests.oracles import timm_model, torchvision_model

LITE_OPS = frozenset({"dwconv_bn_act_train", "bn_act_train"})
OPS = LITE_OPS | {"squeeze_excite", "squeeze_excite_backward"}
NO_DROPS = {"drop_path_rate": 0.0}


def case(name, oracle, by_order, ops):
    first = name[:-1] + "0"
    # Even sizes beside the odd one: there TensorFlow's padding differs.
    return Case(
        name,
        oracle,
        odd=(97, 130),
        ops=ops,
        by_order=by_order,
        config=NO_DROPS,
        # The stem, whose padding is uneven: x is padded for it, and SiLU is no activation to do in place behind it.
        # 64 pixels leave 2 x 2 in the last stage: statistics of so few values make the deep ones amplify rounding (in
        # eager PyTorch, too) to 1e-2 of outputs near 1e5; with those of 160 (b7: 256) pixels all agree to 1e-5.
        step_size=64 if name == first else 256 if name.endswith("b7") else 160,
        like="" if name == first else first,
    )


CASES = [
    *(
        case(
            f"efficientnet_b{i}",
            partial(torchvision_model, f"efficientnet_b{i}", dropout=0.0, stochastic_depth_prob=0.0),
            False,
            OPS,
        )
        for i in range(8)
    ),
    *(case(f"tf_efficientnet_b{i}", partial(timm_model, f"tf_efficientnet_b{i}"), True, OPS) for i in range(8)),
    *(
        case(f"{tf}efficientnet_lite{i}", partial(timm_model, f"{tf}efficientnet_lite{i}"), True, LITE_OPS)
        for tf in ("", "tf_")
        for i in range(5)
    ),
]
