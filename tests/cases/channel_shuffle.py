import torch

from cnnkernels import ops

from .table import ELEMENTWISE, Bad, Case, OpCases, randn

EXACT = dict.fromkeys((torch.float64, torch.float32, torch.float16, torch.bfloat16), (0.0, 0.0))

# channels x groups: every vectorised number of streams on either side (2, 3, 4, 6, 8), odd ones, both trivial ones
SHUFFLES = {
    "58-by-2": (58, 2, 5, 7),
    "58-by-29": (58, 29, 3, 3),
    "39-by-3": (39, 3, 3, 5),
    "39-by-13": (39, 13, 3, 5),
    "76-by-4": (76, 4, 2, 3),
    "76-by-19": (76, 19, 2, 3),
    "54-by-6": (54, 6, 1, 3),
    "72-by-8": (72, 8, 3, 1),
    "35-by-5": (35, 5, 3, 3),
    "35-by-7": (35, 7, 4, 4),
    "one-group": (5, 1, 3, 3),
    "all-groups": (5, 5, 3, 3),
    "one-pixel": (12, 3, 1, 1),
}
# channels of a, of b, groups: even and uneven parts, splits inside a group and inside a tuple of the shuffle
CONCATS = {
    "29+29": (29, 29, 2, 5, 7),
    "7+17": (7, 17, 2, 3, 3),
    "17+7-by-3": (17, 7, 3, 3, 3),
    "30+28-by-29": (30, 28, 29, 3, 2),
    "13+7-by-4": (13, 7, 4, 2, 2),
    "11+19-by-6": (11, 19, 6, 2, 3),
    "1+3-by-4": (1, 3, 4, 3, 3),
    "one-pixel": (5, 3, 2, 1, 1),
}


def _concat_backward(ca, cb, groups, h, w, n=2):
    half = (ca + cb) // 2
    return randn(n, half, h, w), randn(n, half, h, w, seed=1), ca, groups


SHUFFLE = [
    *(
        Case("channel_shuffle", name, lambda c=c, g=g, h=h, w=w: (randn(2, c, h, w), g))
        for name, (c, g, h, w) in SHUFFLES.items()
    ),
    Case("channel_shuffle", "empty", lambda: (randn(0, 6, 3, 3), 2), layouts=("nchw", "channels_last")),
    Case("channel_shuffle", "wide-pixel", lambda: (randn(1, 6400, 1, 2), 2), slow=True),  # beyond CUDA's shared memory
    Case("channel_shuffle", "threads", lambda: (randn(2, 24, 40, 40), 2), slow=True, layouts=("nchw", "channels_last")),
]
CONCAT = [
    *(
        Case(
            "concat_shuffle_split",
            name,
            lambda a=a, b=b, g=g, h=h, w=w: (randn(2, a, h, w), randn(2, b, h, w, seed=1), g),
            data=(0, 1),
        )
        for name, (a, b, g, h, w) in CONCATS.items()
    ),
    Case(
        "concat_shuffle_split",
        "empty",
        lambda: (randn(0, 3, 3, 3), randn(0, 5, 3, 3), 2),
        data=(0, 1),
        layouts=("nchw", "channels_last"),
    ),
]
CONCAT_BACKWARD = [
    *(
        Case("concat_shuffle_split_backward", name, lambda s=s: _concat_backward(*s), data=(0, 1))
        for name, s in CONCATS.items()
    ),
    Case(
        "concat_shuffle_split_backward",
        "empty",
        lambda: _concat_backward(3, 5, 2, 3, 3, n=0),
        data=(0, 1),
        layouts=("nchw", "channels_last"),
    ),
]

X = torch.zeros(2, 6, 3, 3)


def _bad_shuffle(id, args, error, match):
    return Bad("channel_shuffle", id, lambda: args, error, match, ops.channel_shuffle)


def _bad_concat(id, args, error, match):
    return Bad("concat_shuffle_split", id, lambda: args, error, match, ops.concat_shuffle_split)


def _bad_backward(id, args, error, match):
    return Bad("concat_shuffle_split_backward", id, lambda: args, error, match)


TABLE = {
    "channel_shuffle": OpCases(
        SHUFFLE,
        [
            _bad_shuffle("groups", (X, 4), ValueError, "groups must divide the 6 channels, got 4"),
            _bad_shuffle("no groups", (X, 0), ValueError, "groups must be at least 1, got 0"),
            _bad_shuffle("negative groups", (X, -2), ValueError, "groups must be at least 1, got -2"),
            _bad_shuffle("3-d", (X[0], 2), ValueError, "x must have 4 dimensions"),
            _bad_shuffle("integers", (X.long(), 2), TypeError, "x must be float32"),
        ],
        EXACT,
        ELEMENTWISE,  # the incoming gradient is rounded to the dtype
    ),
    "concat_shuffle_split": OpCases(
        CONCAT,
        [
            _bad_concat("groups", (X, X, 5), ValueError, "groups must divide the 12 channels, got 5"),
            _bad_concat("no groups", (X, X, 0), ValueError, "groups must be at least 1, got 0"),
            _bad_concat("odd", (X, X[:, :3], 3), ValueError, "must have an even number of channels together, got 9"),
            _bad_concat("size", (X, X[:, :, :2], 2), ValueError, r"b must be \[N, C, H, W\] with N=2, H=3, W=3 as a"),
            _bad_concat("batch", (X, X[:1], 2), ValueError, r"b must be \[N, C, H, W\] with N=2"),
            _bad_concat("dtype", (X, X.half(), 2), TypeError, r"b must be torch.float32 \(a is torch.float32\)"),
            _bad_concat("3-d", (X[0], X, 2), ValueError, "a must have 4 dimensions"),
            _bad_concat("3-d b", (X, X[0], 2), ValueError, "b must have 4 dimensions"),
            _bad_concat("integers", (X.long(), X, 2), TypeError, "a must be float32"),
        ],
        EXACT,
        ELEMENTWISE,  # the incoming gradient is rounded to the dtype
    ),
    "concat_shuffle_split_backward": OpCases(
        CONCAT_BACKWARD,
        [
            _bad_backward("halves", (X, X[:, :3], 3, 2), ValueError, "dright must have 6 channels as dleft, got 3"),
            _bad_backward("a", (X, X, 13, 2), ValueError, "channels_a must be from 0 to 12, got 13"),
            _bad_backward("negative a", (X, X, -1, 2), ValueError, "channels_a must be from 0 to 12, got -1"),
            _bad_backward("groups", (X, X, 6, 7), ValueError, "groups must divide the 12 channels"),
            _bad_backward("dtype", (X, X.half(), 6, 2), TypeError, "dright must be torch.float32"),
            _bad_backward("size", (X, X[..., :2], 6, 2), ValueError, r"dright must be \[N, C, H, W\] with N=2"),
        ],
        EXACT,
        ELEMENTWISE,  # the incoming gradient is rounded to the dtype
    ),
}
