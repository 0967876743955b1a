import torch

from cnnkernels import ops

from .table import Bad, Case, OpCases, randn

PARAMETERS = (1, 2, 3, 4)


def _args(n, c, h, w, r, act="relu", gate="sigmoid", biases=(True, True), spatial=False):
    ones = (1, 1) if spatial else ()
    return (
        randn(n, c, h, w) + 0.3,  # means away from 0
        randn(r, c, *ones, seed=1) / c**0.5,
        randn(r, seed=2) if biases[0] else None,
        randn(c, r, *ones, seed=3) / r**0.5,
        randn(c, seed=4) if biases[1] else None,
        act,
        gate,
    )


# hidden units of a piecewise linear activation must not sit at a kink, where rounding decides the side of the gradient
SHAPES = {
    "silu": dict(n=2, c=19, h=5, w=7, r=5, act="silu"),
    "relu": dict(n=3, c=8, h=4, w=4, r=2),
    "hard": dict(n=2, c=24, h=3, w=3, r=9, act="mish", gate="hard_sigmoid"),
    "no-biases": dict(n=1, c=17, h=5, w=3, r=4, act="silu", biases=(False, False)),
    "first-bias": dict(n=5, c=9, h=3, w=5, r=3, act="hard_swish", biases=(True, False)),
    "second-bias-1x1": dict(n=2, c=6, h=3, w=5, r=33, act="identity", biases=(False, True), spatial=True),
    "leaky": dict(n=2, c=10, h=2, w=3, r=3, act="leaky_relu(0.1)", spatial=True),
    "one-pixel": dict(n=3, c=12, h=1, w=1, r=4, act="silu"),
    "one-channel": dict(n=2, c=1, h=5, w=5, r=1, act="silu"),
}
LARGER = {
    "strips": dict(n=1, c=40, h=40, w=33, r=10, act="silu"),  # partial sums, in both layouts
    "wide": dict(n=2, c=600, h=3, w=3, r=70, act="silu"),  # more than one chunk of a layer's inputs
}


def _forward(shape):
    return lambda: _args(**shape)


def _backward(shape):
    args = _args(**shape)
    return lambda: (randn(*args[0].shape, seed=9), *args)


EMPTY = dict(n=0, c=6, h=3, w=3, r=2)
FORWARD = [
    *(Case("squeeze_excite", k, _forward(s), follow=PARAMETERS) for k, s in SHAPES.items()),
    *(Case("squeeze_excite", k, _forward(s), follow=PARAMETERS, slow=True) for k, s in LARGER.items()),
    Case("squeeze_excite", "empty", _forward(EMPTY), follow=PARAMETERS, layouts=("nchw", "channels_last")),
]
FOLLOW_BACKWARD = tuple(p + 1 for p in PARAMETERS)
BACKWARD = [
    *(Case("squeeze_excite_backward", k, _backward(s), data=(0, 1), follow=FOLLOW_BACKWARD) for k, s in SHAPES.items()),
    *(
        Case("squeeze_excite_backward", k, _backward(s), data=(0, 1), follow=FOLLOW_BACKWARD, slow=True)
        for k, s in LARGER.items()
    ),
    Case(
        "squeeze_excite_backward",
        "empty",
        _backward(EMPTY),
        data=(0, 1),
        follow=FOLLOW_BACKWARD,
        layouts=("nchw", "channels_last"),
    ),
]

# fp32 sums over up to 1320 pixels and 600 channels; one rounding of the result for the half types
FORWARD_TOLERANCE = {
    torch.float64: (1e-12, 1e-12),
    torch.float32: (5e-6, 5e-6),
    torch.float16: (1e-3, 1e-4),
    torch.bfloat16: (8e-3, 1e-4),
}
# Sums over all pixels of dy * x in turn weighted and summed over channels or images: terms that cancel leave an absolute
# error of a few roundings of the largest term.
SUM_TOLERANCE = {
    torch.float64: (1e-10, 1e-10),
    torch.float32: (3e-5, 3e-5),
    torch.float16: (4e-3, 4e-3),
    torch.bfloat16: (3e-2, 3e-2),
}
# The test's functional of all five gradients has weights rounded to the dtype: up to 42,000 such roundings add up.
SECOND_TOLERANCE = {**SUM_TOLERANCE, torch.float16: (2e-2, 2e-2), torch.bfloat16: (1.5e-1, 1.5e-1)}

X, W1, B1, W2, B2 = (torch.zeros(*s) for s in ((2, 6, 3, 3), (4, 6), (4,), (6, 4), (6,)))


def _bad(id, error, match, **changes):
    args = dict(x=X, w1=W1, b1=B1, w2=W2, b2=B2, act="relu", gate="sigmoid") | changes

    def public(*a):
        return ops.squeeze_excite(*a[:5], act=a[5], gate=a[6])

    return Bad("squeeze_excite", id, lambda: tuple(args.values()), error, match, public)


TABLE = {
    "squeeze_excite": OpCases(
        FORWARD,
        [
            _bad("3-d", ValueError, "x must have 4 dimensions", x=X[0]),
            _bad("no pixels", ValueError, "x must have channels and pixels", x=X[:, :, :0]),
            _bad("integers", TypeError, "x must be float32", x=X.long()),
            _bad("w1", ValueError, r"w1 must be \[R, C\] with C=6 .*, got \[6, 4\]", w1=W2),
            _bad("w1 rank", ValueError, r"w1 must be \[R, C\] with C=6", w1=W1[0]),
            _bad("w1 3x3", ValueError, r"w1 must be \[R, C\]", w1=torch.zeros(4, 6, 3, 3)),
            _bad("w1 dtype", TypeError, "w1 must be torch.float32", w1=W1.half()),
            _bad("no rows", ValueError, r"w1 must be \[R, C\]", w1=W1[:0]),
            _bad("w2", ValueError, r"w2 must be \[C, R\] with C=6, R=4", w2=W1),
            _bad("w2 dtype", TypeError, "w2 must be torch.float32", w2=W2.double()),
            _bad("b1", ValueError, r"b1 must be \[R\] with R=4, got \[6\]", b1=B2),
            _bad("b1 dtype", TypeError, "b1 must be torch.float32", b1=B1.half()),
            _bad("b2", ValueError, r"b2 must be \[C\] with C=6, got \[4\]", b2=B1),
            _bad("act", ValueError, "act must be one of identity", act="gelu"),
            _bad("gate", ValueError, "gate must be sigmoid or hard_sigmoid, got 'relu'", gate="relu"),
        ],
        FORWARD_TOLERANCE,
        SUM_TOLERANCE,
    ),
    "squeeze_excite_backward": OpCases(
        BACKWARD,
        [
            Bad(
                "squeeze_excite_backward",
                "shape",
                lambda: (X[:1], X, W1, B1, W2, B2, "relu", "sigmoid"),
                ValueError,
                "grad must have the shape of x",
            ),
            Bad(
                "squeeze_excite_backward",
                "dtype",
                lambda: (X.half(), X, W1, B1, W2, B2, "relu", "sigmoid"),
                TypeError,
                "grad must be torch.float32",
            ),
        ],
        SUM_TOLERANCE,
        SECOND_TOLERANCE,
    ),
}
