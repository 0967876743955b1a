import torch

from cnnkernels import ops

from .activation import NAMES
from .table import ELEMENTWISE, Bad, Case, OpCases, randn, steps

# Not whole vectors, several tasks on a CPU, one pixel, one element.
SHAPES = {
    "odd": (2, 3, 5, 7),
    "vectors": (1, 16, 4, 8),
    "pixels": (2, 9, 1, 1),
    "single": (1, 1, 1, 1),
}
WEIGHTS = (1.0, 0.5, 1.5, 2.0)
KINKS = ("relu", "relu6", "leaky_relu", "leaky_relu(0.1)", "hard_swish", "hard_sigmoid")


def _maps(shape, maps, make):
    return (*(make(*shape, seed=10 + i) * 2 + 0.5 for i in range(maps)), *(None for _ in range(4 - maps)))


def _weights(maps, cut_off):
    """Positive ones, or one of them below zero."""
    w = torch.tensor(WEIGHTS[:maps], dtype=torch.float64)
    return w * torch.where(torch.arange(maps) == 1, -1.0, 1.0).double() if cut_off else w


def _calls():
    """(id, shape, maps, act, weights, eps)"""
    for act in NAMES:
        # Shares of a half, and numbers half beside the even ones: exact sums, half beside every kink.
        exact = act in KINKS
        weights = torch.ones(2, dtype=torch.float64) if exact else _weights(3, False)
        yield act, (2, 3, 5, 7), len(weights), act, weights, 0.0 if exact else 1e-4
    for maps in (2, 3, 4):
        for cut_off in (False, True):
            for name, shape in SHAPES.items():
                if cut_off == (name == "odd"):
                    yield f"{maps}-{name}", shape, maps, "silu", _weights(maps, cut_off), 1e-4
    yield "none-counts", (1, 2, 3, 3), 3, "silu", -_weights(3, False), 1e-2
    yield "parameters-of-the-maps", (1, 2, 3, 3), 2, "silu", _weights(2, False), 1e-4


def _layouts(shape):
    return ("nchw", "channels_last") if 0 in shape else ("nchw", "channels_last", "sliced", "expanded", "permuted")


def _case(op, name, shape, maps, act, weights, eps, **kw):
    make = steps if act in KINKS else randn
    first = 0 if op == "weighted_fusion" else 1

    def args():
        grad = (randn(*shape, seed=1),) if first else ()
        return *grad, *_maps(shape, maps, make), weights, eps, act

    data = tuple(range(4 + first))
    follow = (4 + first,) if name == "parameters-of-the-maps" else ()
    return Case(op, name, args, data=data, follow=follow, layouts=_layouts(shape), **kw)


def _cases(op):
    return [
        *(_case(op, *call) for call in _calls()),
        _case(op, "empty", (0, 3, 4, 4), 3, "silu", _weights(3, False), 1e-4),
        _case(op, "threads", (2, 3, 96, 160), 3, "silu", _weights(3, True), 1e-4, slow=True),
    ]


X, W = torch.zeros(2, 3, 4, 4), torch.ones(2)


def _public(x0, x1, x2, x3, weights, eps, act):
    return ops.weighted_fusion([x for x in (x0, x1, x2, x3) if x is not None], weights, eps=eps, act=act)


def _bad(id, args, error, match, public=_public):
    return Bad("weighted_fusion", id, lambda: args, error, match, public)


def _bad_backward(id, args, error, match):
    return Bad("weighted_fusion_backward", id, lambda: args, error, match)


# Sums over a map in fp32, of up to 100,000 products of order 1.
SUMS = {**ELEMENTWISE, torch.float32: (1e-5, 1e-4), torch.float64: (1e-10, 1e-10)}
# The derivative of a half-precision gradient rounds its own half-precision terms before it adds them up.
SECOND = {**SUMS, torch.float32: (1e-4, 5e-4), torch.float16: (4e-3, 4e-3), torch.bfloat16: (3e-2, 3e-2)}

TABLE = {
    "weighted_fusion": OpCases(
        _cases("weighted_fusion"),
        [
            _bad("3-d", (X[0], X[0], None, None, W, 1e-4, "relu"), ValueError, r"xs\[0\] must have 4 dimensions"),
            _bad("integers", (X.long(), X, None, None, W, 1e-4, "relu"), TypeError, r"xs\[0\] must be float32"),
            _bad(
                "shape", (X, X[:1], None, None, W, 1e-4, "relu"), ValueError, r"xs\[1\] must have the shape of xs\[0\]"
            ),
            _bad("dtype", (X, X, X.half(), None, W, 1e-4, "relu"), TypeError, r"xs\[2\] must be torch.float32"),
            _bad("gap", (X, X, None, X, W, 1e-4, "relu"), ValueError, "x2 must be a tensor where x3 is", None),
            _bad("weights", (X, X, X, None, W, 1e-4, "relu"), ValueError, r"weights must be \[maps\] with maps=3"),
            _bad("half", (X, X, None, None, W.half(), 1e-4, "relu"), TypeError, "weights must be torch.float32"),
            _bad("eps", (X, X, None, None, W, -1.0, "relu"), ValueError, "eps must be >= 0"),
            _bad("nan", (X, X, None, None, W, float("nan"), "relu"), ValueError, "eps must be >= 0 and finite"),
            _bad("act", (X, X, None, None, W, 1e-4, "gelu"), ValueError, "act must be one of"),
        ],
        {**ELEMENTWISE, torch.float32: (5e-6, 5e-6)},
        SUMS,
    ),
    "weighted_fusion_backward": OpCases(
        _cases("weighted_fusion_backward"),
        [
            _bad_backward(
                "grad", (X[1:], X, X, None, None, W, 1e-4, "relu"), ValueError, r"grad must have the shape of xs\[0\]"
            ),
            _bad_backward(
                "weights", (X, X, X, X, None, W, 1e-4, "relu"), ValueError, r"weights must be \[maps\] with maps=3"
            ),
            _bad_backward("act", (X, X, X, None, None, W, 1e-4, ""), ValueError, "act must be one of"),
        ],
        SUMS,
        SECOND,
    ),
}
