import torch

from cnnkernels import ops

from .table import ELEMENTWISE, Bad, Case, OpCases, randn

EXACT = dict.fromkeys((torch.float64, torch.float32, torch.float16, torch.bfloat16), (0.0, 0.0))
# An element of a small map may receive all gradients of a 13 x 13 window: sums of up to 200 numbers, in any order.
SUMS = {
    torch.float64: (1e-12, 1e-12),
    torch.float32: (2e-6, 2e-5),
    torch.float16: (1e-3, 2e-4),
    torch.bfloat16: (8e-3, 2e-4),
}

# channels, height, width, sizes.  Ties and NaNs, where finite differences do not apply: tests/test_spp.py.
SIZES = {
    "yolo": (3, 13, 13, [5, 9, 13]),
    "one-size": (2, 6, 19, [3]),
    "unordered": (2, 5, 7, [7, 1, 3, 3]),
    "row": (5, 1, 9, [3, 5]),
    "column": (5, 9, 1, [3, 101]),
    "one-pixel": (7, 1, 1, [5, 9, 13]),
    "channels": (37, 3, 4, [3, 5]),  # beyond a tile of any type in channels_last
}


def _with_grad(x, sizes):
    n, c, h, w = x.shape
    return randn(n, (1 + len(sizes)) * c, h, w, seed=9), x, sizes


FORWARD = [
    *(Case("spp", name, lambda c=c, h=h, w=w, k=k: (randn(2, c, h, w), k)) for name, (c, h, w, k) in SIZES.items()),
    Case("spp", "empty", lambda: (randn(0, 3, 4, 4), [5]), layouts=("nchw", "channels_last")),
    Case("spp", "threads", lambda: (randn(2, 64, 20, 20), [5, 9, 13]), slow=True, layouts=("nchw", "channels_last")),
    Case("spp", "large-map", lambda: (randn(1, 2, 90, 80), [3, 5]), slow=True, layouts=("nchw", "channels_last")),
]
BACKWARD = [
    *(
        Case("spp_backward", name, lambda c=c, h=h, w=w, k=k: _with_grad(randn(2, c, h, w), k), data=(0, 1))
        for name, (c, h, w, k) in SIZES.items()
    ),
    Case(
        "spp_backward",
        "empty",
        lambda: _with_grad(randn(0, 3, 4, 4), [5]),
        data=(0, 1),
        layouts=("nchw", "channels_last"),
    ),
]

X = torch.zeros(2, 3, 4, 6)


def _bad(id, args, error, match):
    return Bad("spp", id, lambda: args, error, match, ops.spp)


def _bad_backward(id, args, error, match):
    return Bad("spp_backward", id, lambda: args, error, match)


TABLE = {
    "spp": OpCases(
        FORWARD,
        [
            _bad("even", (X, [5, 4]), ValueError, r"kernel_sizes must be odd and positive, got \[5, 4\]"),
            _bad("negative", (X, [-1]), ValueError, r"kernel_sizes must be odd and positive, got \[-1\]"),
            _bad("none", (X, []), ValueError, r"kernel_sizes must be 1 to 8 numbers, got \[\]"),
            _bad("many", (X, [3] * 9), ValueError, "kernel_sizes must be 1 to 8 numbers"),
            _bad("no rows", (X[:, :, :0], [5]), ValueError, r"with C, H and W at least 1, got \[2, 3, 0, 6\]"),
            _bad("3-d", (X[0], [5]), ValueError, "x must have 4 dimensions"),
            _bad("integers", (X.long(), [5]), TypeError, "x must be float32"),
        ],
        EXACT,
        SUMS,
    ),
    "spp_backward": OpCases(
        BACKWARD,
        [
            _bad_backward("channels", (X, X, [5]), ValueError, r"grad must be \[2, 6, 4, 6\] \(x is \[2, 3, 4, 6\]\)"),
            _bad_backward("dtype", (X.repeat(1, 2, 1, 1).half(), X, [5]), TypeError, "grad must be torch.float32"),
            _bad_backward("even", (X, X, [2]), ValueError, "kernel_sizes must be odd"),
            _bad_backward("3-d", (X, X[0], [5]), ValueError, "x must have 4 dimensions"),
            _bad_backward("integers", (X.long(), X.long(), [5]), TypeError, "x must be float32"),
        ],
        SUMS,
        ELEMENTWISE,  # towards grad: each element's is a copy
    ),
}
