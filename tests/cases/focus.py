import torch

from cnnkernels import ops

from .table import ELEMENTWISE, Bad, Case, OpCases, randn

EXACT = dict.fromkeys((torch.float64, torch.float32, torch.float16, torch.bfloat16), (0.0, 0.0))

# Rows of whole vectors and not; pixels of 1 to 4 channels (2 to 32 bytes), of whole 16 bytes, and longer than 32.
SIZES = {
    "3ch-8x16": (3, 8, 16),
    "3ch-6x10": (3, 6, 10),
    "1ch-4x6": (1, 4, 6),
    "4ch-2x18": (4, 2, 18),
    "9ch-2x2": (9, 2, 2),
    "16ch-4x4": (16, 4, 4),
    "one-column": (3, 6, 2),
}


def _cases(op, args):
    return [
        *(Case(op, name, lambda s=s: (args(2, *s),)) for name, s in SIZES.items()),
        Case(op, "empty", lambda: (args(0, 3, 4, 4),), layouts=("nchw", "channels_last")),
        Case(op, "no-rows", lambda: (args(1, 3, 0, 4),), layouts=("nchw", "channels_last")),
        Case(op, "threads", lambda: (args(2, 3, 96, 160),), slow=True, layouts=("nchw", "channels_last")),
    ]


X = torch.zeros(2, 3, 4, 6)


def _bad(id, x, error, match):
    return Bad("focus", id, lambda: (x,), error, match, ops.focus)


def _bad_backward(id, grad, error, match):
    return Bad("focus_backward", id, lambda: (grad,), error, match)


TABLE = {
    "focus": OpCases(
        _cases("focus", randn),
        [
            _bad(
                "odd height", X[:, :, :3], ValueError, r"x must be \[N, C, H, W\] with H and W even, got \[2, 3, 3, 6\]"
            ),
            _bad("odd width", X[..., :5], ValueError, r"with H and W even, got \[2, 3, 4, 5\]"),
            _bad("3-d", X[0], ValueError, "x must have 4 dimensions"),
            _bad("integers", X.long(), TypeError, "x must be float32"),
        ],
        EXACT,
        ELEMENTWISE,  # the incoming gradient is rounded to the dtype
    ),
    "focus_backward": OpCases(
        _cases("focus_backward", lambda n, c, h, w: randn(n, 4 * c, h // 2, w // 2)),
        [
            _bad_backward("channels", X, ValueError, r"grad must be \[N, 4C, H, W\], got \[2, 3, 4, 6\]"),
            _bad_backward("3-d", X[0], ValueError, "grad must have 4 dimensions"),
            _bad_backward("integers", X.long(), TypeError, "grad must be float32"),
        ],
        EXACT,
        ELEMENTWISE,  # the incoming gradient is rounded to the dtype
    ),
}
