import torch

from cnnkernels import ops

from .activation import NAMES
from .table import ELEMENTWISE, LAYOUTS, Bad, Case, OpCases, rand, randn

SHAPES = {
    "odd": (2, 19, 5, 3),  # channels fill no whole vector
    "blocks": (2, 70, 3, 5),  # a block of channel vectors and a rest
    "chunks": (1, 2, 70, 61),  # a channel's values are summed in several parts, in NCHW
    "strips": (2, 70, 12, 11),  # ... and in channels_last
    "one-channel": (3, 1, 4, 5),
    "pixels": (5, 6, 1, 1),
    "planes": (2, 3, 2, 3, 5),
    "lines": (3, 7, 11),
    "rows": (9, 21),
    "empty": (0, 3, 4, 4),
}


def _x(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return randn(*shape, seed=seed) * 2 + rand(1, shape[1], *[1] * (len(shape) - 2), seed=9, low=-3.0, high=3.0)


def _scale(c: int) -> torch.Tensor:
    return rand(c, seed=2, low=0.5, high=2.0) * torch.where(torch.arange(c) % 3 == 1, -1.0, 1.0).double()


def _calls():
    """(id, shape, act, residual): every activation once, every shape with two of them."""
    for act in NAMES:
        yield act, (2, 3, 5, 7), act, act in ("relu", "mish")
    for name, shape in SHAPES.items():
        yield name, shape, "mish", name in ("odd", "blocks", "rows", "empty")
    yield "odd-relu", SHAPES["odd"], "relu", False


def _layouts(shape):
    if 0 in shape:
        return ("nchw", "channels_last")
    return LAYOUTS if len(shape) == 4 else ("nchw", "sliced", "permuted")


def _forward(shape, act, residual):
    c = shape[1]
    return lambda: (_x(shape), _scale(c), randn(c, seed=3), act, randn(*shape, seed=4) if residual else None)


def _backward(shape, act):
    c = shape[1]
    return lambda: (randn(*shape, seed=1), _x(shape), _scale(c), randn(c, seed=3), act)


def _train(shape, act, residual, affine=True):
    c = shape[1]
    weight = (lambda: _scale(c)) if affine else (lambda: None)
    bias = (lambda: randn(c, seed=3)) if affine else (lambda: None)
    return lambda: (_x(shape), weight(), bias(), 1e-5, act, randn(*shape, seed=4) if residual else None)


def _train_backward(shape, act, affine=True):
    def args():
        x = _x(shape)
        axes = [i for i in range(x.dim()) if i != 1]
        mean = x.mean(axes) if x.numel() else torch.zeros(shape[1]).double()
        var = x.var(axes, correction=0) if x.numel() else torch.zeros(shape[1]).double()
        weight, bias = (_scale(shape[1]), randn(shape[1], seed=3)) if affine else (None, None)
        return randn(*shape, seed=1), x, mean, var, weight, bias, 1e-5, act

    return args


FORWARD = [Case("bn_act", i, _forward(s, a, r), data=(0, 4), layouts=_layouts(s)) for i, s, a, r in _calls()]
BACKWARD = [Case("bn_act_backward", i, _backward(s, a), data=(0, 1), layouts=_layouts(s)) for i, s, a, _ in _calls()]
TRAIN = [Case("bn_act_train", i, _train(s, a, r), data=(0, 5), layouts=_layouts(s)) for i, s, a, r in _calls()] + [
    Case("bn_act_train", "no-affine", _train((2, 3, 5, 7), "silu", False, affine=False)),
    Case("bn_act_train", "two-values", _train((2, 5, 1, 1), "silu", False), layouts=("nchw",)),
]
TRAIN_BACKWARD = [
    Case("bn_act_train_backward", i, _train_backward(s, a), data=(0, 1), layouts=_layouts(s)) for i, s, a, _ in _calls()
] + [Case("bn_act_train_backward", "no-affine", _train_backward((2, 3, 5, 7), "silu", affine=False), data=(0, 1))]

# Sums over a channel, in fp32: hundreds to thousands of values of order 1 to 10, of both signs.
SUMS = {**ELEMENTWISE, torch.float32: (1e-5, 5e-5), torch.float64: (1e-10, 1e-10)}
# The derivative of a half-precision gradient rounds its own half-precision terms before it adds them up.
SECOND = {**SUMS, torch.float32: (1e-4, 1e-4), torch.float16: (4e-3, 4e-3), torch.bfloat16: (3e-2, 3e-2)}

X, V = torch.zeros(2, 3, 4, 4), torch.ones(3)
M = torch.zeros(3)


def _public(x, scale, shift, act, residual):
    return ops.bn_act(x, scale, shift, act=act, residual=residual)


def _public_train(x, weight, bias, eps, act, residual):
    return ops.bn_act_train(x, weight, bias, None, None, eps=eps, act=act, residual=residual)


def _bad(op, ident, args, error, match, public=None):
    return Bad(op, ident, lambda: args, error, match, public)


TABLE = {
    "bn_act": OpCases(
        FORWARD,
        [
            _bad("bn_act", "dim", (X[0, 0, 0], V, V, "relu", None), ValueError, r"x must be \[N, C, ...\]", _public),
            _bad("bn_act", "integers", (X.long(), V, V, "relu", None), TypeError, "x must be float32", _public),
            _bad("bn_act", "scale", (X, V[:2], V, "relu", None), ValueError, r"scale must be \[C\] with C=3", _public),
            _bad("bn_act", "shift", (X, V, X, "relu", None), ValueError, r"shift must be \[C\] with C=3", _public),
            _bad("bn_act", "dtype", (X, V.half(), V, "relu", None), TypeError, "scale must be torch.float32", _public),
            _bad("bn_act", "act", (X, V, V, "gelu", None), ValueError, "act must be one of", _public),
            _bad("bn_act", "residual", (X, V, V, "relu", X[:1]), ValueError, "residual must have the shape", _public),
            _bad("bn_act", "mixed", (X, V, V, "relu", X.half()), TypeError, "residual must be torch.float32", _public),
        ],
        {**ELEMENTWISE, torch.float32: (5e-6, 5e-6)},
        SUMS,
    ),
    "bn_act_backward": OpCases(
        BACKWARD,
        [
            _bad("bn_act_backward", "dim", (V, V, V, V, "relu"), ValueError, r"x must be \[N, C, ...\]"),
            _bad("bn_act_backward", "grad", (X[:1], X, V, V, "relu"), ValueError, "grad must have the shape of x"),
            _bad("bn_act_backward", "scale", (X, X, V[:1], V, "relu"), ValueError, r"scale must be \[C\] with C=3"),
            _bad("bn_act_backward", "shift", (X, X, V, V[:1], "relu"), ValueError, r"shift must be \[C\] with C=3"),
            _bad("bn_act_backward", "act", (X, X, V, V, ""), ValueError, "act must be one of"),
        ],
        SUMS,
        SECOND,
    ),
    "bn_act_train": OpCases(
        TRAIN,
        [
            _bad("bn_act_train", "dim", (V, V, V, 1e-5, "relu", None), ValueError, r"x must be \[N, C", _public_train),
            _bad(
                "bn_act_train",
                "weight",
                (X, V[:2], V, 1e-5, "relu", None),
                ValueError,
                "bn_weight must be",
                _public_train,
            ),
            _bad(
                "bn_act_train", "bias", (X, V, V[:2], 1e-5, "relu", None), ValueError, "bn_bias must be", _public_train
            ),
            _bad("bn_act_train", "eps", (X, V, V, -1.0, "relu", None), ValueError, "eps must be >= 0", _public_train),
            _bad(
                "bn_act_train", "nan", (X, V, V, float("nan"), "relu", None), ValueError, "eps must be", _public_train
            ),
            _bad("bn_act_train", "act", (X, V, V, 1e-5, "gelu", None), ValueError, "act must be one of", _public_train),
            _bad(
                "bn_act_train", "residual", (X, V, V, 1e-5, "relu", X[1:]), ValueError, "residual must", _public_train
            ),
            _bad(
                "bn_act_train",
                "one value",
                (X[:1, :, :1, :1], V, V, 1e-5, "relu", None),
                ValueError,
                "more than one value per channel",
                _public_train,
            ),
        ],
        {**ELEMENTWISE, torch.float32: (5e-6, 5e-6)},
        {**SUMS, torch.float32: (2e-5, 2e-5)},
    ),
    "bn_act_train_backward": OpCases(
        TRAIN_BACKWARD,
        [
            _bad("bn_act_train_backward", "dim", (V, V, M, V, V, V, 1e-5, "relu"), ValueError, r"x must be \[N, C"),
            _bad("bn_act_train_backward", "grad", (X[1:], X, M, V, V, V, 1e-5, "relu"), ValueError, "grad must have"),
            _bad("bn_act_train_backward", "mean", (X, X, M[1:], V, V, V, 1e-5, "relu"), ValueError, "mean must be"),
            _bad("bn_act_train_backward", "var", (X, X, M, V[1:], V, V, 1e-5, "relu"), ValueError, "var must be"),
            _bad("bn_act_train_backward", "weight", (X, X, M, V, X, V, 1e-5, "relu"), ValueError, "bn_weight must be"),
            _bad("bn_act_train_backward", "act", (X, X, M, V, V, V, 1e-5, "mash"), ValueError, "act must be one of"),
        ],
        {**SUMS, torch.float32: (2e-5, 2e-5)},
        SECOND,
    ),
}
