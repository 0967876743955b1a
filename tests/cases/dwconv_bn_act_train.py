from typing import Any

import torch

from cnnkernels import _op, ops

from .dwconv_bn_act import GRADIENT, SHAPES, C, Shape, W, X
from .table import Bad, Case, OpCases, rand, randn

# The output needs two values per channel; channels without variance make finite differences meaningless.
TRAINED = [s for s in SHAPES if s.id not in ("empty", "1x1-output", "1x1-input")]
WITHOUT_WEIGHT, WITHOUT_BIAS = ("k3s2", "k7s1"), ("k5s1", "k7s1")


def _forward(s: Shape) -> tuple[Any, ...]:
    x, weight = s.tensors()
    c = s.x[1]
    bn_weight = None if s.id in WITHOUT_WEIGHT else rand(c, seed=2, low=0.5, high=1.5)
    bn_bias = None if s.id in WITHOUT_BIAS else randn(c, seed=3)
    return (
        x,
        weight,
        bn_weight,
        bn_bias,
        1e-3,
        list(s.stride),
        None if s.padding is None else list(s.padding),
        list(s.dilation),
        s.act,
    )


def _backward(s: Shape) -> tuple[Any, ...]:
    x, weight, *rest = _forward(s)
    y, u, mean, var = _op.REGISTRY["dwconv_bn_act_train"].reference(x, weight, *rest)
    return randn(*y.shape, seed=5), x, weight, u, mean, var, *rest


FORWARD = [Case("dwconv_bn_act_train", s.id, lambda s=s: _forward(s), follow=(1,), layouts=s.layouts) for s in TRAINED]
BACKWARD = [
    Case("dwconv_bn_act_train_backward", s.id, lambda s=s: _backward(s), data=(0, 1, 3), follow=(2,), layouts=_layouts)
    for s in TRAINED
    # an expanded x is another x: u and its statistics would no longer belong to it
    for _layouts in [tuple(l for l in s.layouts if l != "expanded")]
]

ARGUMENTS = (X, W, C, C, 1e-5, [1], None, [1], "relu6")
NAMES = ("x", "weight", "bn_weight", "bn_bias", "eps", "stride", "padding", "dilation", "act")


def _bad(ident: str, error: type[Exception], match: str, **changed: Any) -> Bad:
    args = tuple(changed.get(n, a) for n, a in zip(NAMES, ARGUMENTS, strict=True))

    def public(*values: Any) -> Any:
        return ops.dwconv_bn_act_train(*values[:4], None, None, **dict(zip(NAMES[4:], values[4:], strict=True)))

    return Bad("dwconv_bn_act_train", ident, lambda: args, error, match, public)


BAD = [
    _bad("three dimensions", ValueError, "x must have 4 dimensions", x=X[0]),
    _bad("weight", ValueError, "weight must be", weight=W[:3]),
    _bad("bn_weight", ValueError, r"bn_weight must be \[C\]", bn_weight=C[:3]),
    _bad("bn_bias", TypeError, "bn_bias must be torch.float32", bn_bias=C.half()),
    _bad("eps", ValueError, "eps must be >= 0 and finite", eps=-1.0),
    _bad("eps_inf", ValueError, "eps must be >= 0 and finite", eps=float("inf")),
    _bad("padding", ValueError, "padding must be at least 0", padding=[-1]),
    _bad("activation", ValueError, "act must be one of", act="gelu"),
    _bad("one value", ValueError, "Expected more than 1 value per channel", x=X[:1, :, :1, :1]),
    _bad("no image", ValueError, "Expected more than 1 value per channel", x=X[:0]),
]
BAD_BACKWARD = [
    Bad(
        "dwconv_bn_act_train_backward",
        ident,
        lambda args=args: (*args, *ARGUMENTS[2:]),
        error,
        match,
    )
    for ident, args, error, match in [
        ("grad", (X[:1], X, W, X, C, C), ValueError, "grad must have the output's shape"),
        ("u", (X, X, W, X[:1], C, C), ValueError, "u must have the output's shape"),
        ("u's dtype", (X, X, W, X.half(), C, C), TypeError, "u must be torch.float32"),
        ("mean", (X, X, W, X, C[:3], C), ValueError, r"mean must be \[C\]"),
    ]
]

# u carries one rounding to x's dtype before it is normalised, and y another.
TOLERANCE = {
    torch.float64: (1e-11, 1e-11),
    torch.float32: (2e-5, 2e-5),
    torch.float16: (2e-3, 2e-3),
    torch.bfloat16: (1.6e-2, 1.6e-2),
}
TABLE = {
    "dwconv_bn_act_train": OpCases(FORWARD, BAD, TOLERANCE, GRADIENT),
    "dwconv_bn_act_train_backward": OpCases(
        BACKWARD,
        BAD_BACKWARD,
        GRADIENT,
        GRADIENT,
        no_gradcheck="u, mean and var depend on x and weight: tests/test_dwconv.py takes second derivatives of the whole",
    ),
}
