import torch

from cnnkernels import ops

from .table import ELEMENTWISE, Bad, Case, OpCases, randn

# channels, size of x, size of y: twice and one less, rows of whole vectors and not, channels of whole vectors and not.
SIZES = {
    "twice": (3, (3, 5), (6, 10)),
    "one-less": (3, (3, 5), (5, 9)),
    "one-less-in-width": (2, (4, 9), (8, 17)),
    "vectors": (16, (2, 8), (4, 16)),
    "long-rows": (1, (2, 37), (3, 73)),
    "one-pixel": (5, (1, 1), (2, 1)),
    "four-times": (2, (3, 2), (12, 8)),
    "any": (9, (3, 4), (7, 13)),
    "same": (3, (4, 4), (4, 4)),
    "smaller": (3, (7, 8), (3, 5)),
}


def _args(n, c, small, large):
    return randn(n, c, *small), randn(n, c, *large, seed=1)


def _backward_args(n, c, small, large):
    return randn(n, c, *large), *small


def _cases(op, args, data):
    return [
        *(Case(op, name, lambda s=s: args(2, *s), data=data) for name, s in SIZES.items()),
        Case(op, "empty", lambda: args(0, 3, (2, 2), (4, 4)), data=data, layouts=("nchw", "channels_last")),
        Case(op, "no-channels", lambda: args(2, 0, (2, 2), (4, 4)), data=data, layouts=("nchw", "channels_last")),
        Case(
            op,
            "threads",
            lambda: args(2, 3, (48, 80), (95, 160)),
            data=data,
            slow=True,
            layouts=("nchw", "channels_last"),
        ),
    ]


X, Y = torch.zeros(2, 3, 2, 3), torch.zeros(2, 3, 4, 6)


def _bad(id, x, y, error, match):
    return Bad("upsample_add", id, lambda: (x, y), error, match, ops.upsample_add)


def _bad_backward(id, args, error, match):
    return Bad("upsample_add_backward", id, lambda: args, error, match)


TABLE = {
    "upsample_add": OpCases(
        _cases("upsample_add", _args, (0, 1)),
        [
            _bad("3-d x", X[0], Y, ValueError, "x must have 4 dimensions"),
            _bad("3-d y", X, Y[0], ValueError, "y must have 4 dimensions"),
            _bad("integers", X.long(), Y, TypeError, "x must be float32"),
            _bad("mixed", X.half(), Y, TypeError, r"x must be torch.float32 \(y is torch.float32\), got torch.float16"),
            _bad("batch", X[:1], Y, ValueError, r"with y's N and C \(y is \[2, 3, 4, 6\]\), got \[1, 3, 2, 3\]"),
            _bad("channels", X, Y[:, :2], ValueError, r"with y's N and C \(y is \[2, 2, 4, 6\]\), got \[2, 3, 2, 3\]"),
            _bad("no rows", X[:, :, :0], Y, ValueError, r"x must be \[N, C, H, W\] with H and W at least 1"),
            _bad("no columns", X, Y[..., :0], ValueError, r"y must be \[N, C, H, W\] with H and W at least 1"),
        ],
        ELEMENTWISE,
        {**ELEMENTWISE, torch.float32: (2e-6, 4e-6)},  # sums of up to sixteen
    ),
    "upsample_add_backward": OpCases(
        _cases("upsample_add_backward", _backward_args, (0,)),
        [
            _bad_backward("3-d", (Y[0], 2, 3), ValueError, "grad must have 4 dimensions"),
            _bad_backward("integers", (Y.long(), 2, 3), TypeError, "grad must be float32"),
            _bad_backward("height", (Y, 0, 3), ValueError, r"height and width must be at least 1, got \[0, 3\]"),
            _bad_backward("no rows", (Y[:, :, :0], 2, 3), ValueError, "grad must be .* with H and W at least 1"),
        ],
        {**ELEMENTWISE, torch.float32: (2e-6, 4e-6)},
        ELEMENTWISE,  # copies of the gradient, rounded to the dtype
    ),
}
