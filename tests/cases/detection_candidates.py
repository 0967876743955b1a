import torch

from cnnkernels import ops

from .table import Bad, Case, OpCases, rand


def predictions(n: int, rows: int, classes: int):
    """Centres and sizes in eighths and scores in 1/16: products and halves are exact in every dtype, ties are many."""
    box = (rand(n, rows, 4, seed=1, high=40.0) * 8).round() / 8
    scores = (rand(n, rows, 1 + classes, seed=2) * 8).round() / 8
    return torch.cat((box, scores), 2)


def with_nan(p):
    """In every fourth row, each time in another column of what is compared."""
    rows = torch.arange(0, p.shape[1], 4)
    p[:, rows, 4 + rows // 4 % (p.shape[2] - 4)] = float("nan")
    return p


def _case(n, rows, classes, threshold, most, multi_label=False):
    return lambda: (predictions(n, rows, classes), threshold, most, multi_label)


CASES = [
    Case(
        "detection_candidates",
        i,
        a,
        layouts=("nchw", "sliced", "permuted") if i == "best" else ("nchw",),
        backends=("cpu", "reference"),
    )
    for i, a in {
        "best": _case(2, 90, 5, 0.25, 128),
        "too-many": _case(2, 90, 5, 0.25, 17),
        "several-ranges": _case(2, 4500, 3, 0.6, 3000),
        "multi-label": _case(2, 60, 7, 0.3, 500, True),
        "multi-label-too-many": _case(2, 60, 7, 0.3, 31, True),
        "one-class": _case(1, 40, 1, 0.0, 40),
        "nan": lambda: (with_nan(predictions(2, 120, 5)), 0.1, 128, False),
        "nan-multi-label": lambda: (with_nan(predictions(2, 120, 5)), 0.1, 600, True),
        "none-pass": _case(2, 40, 3, 1.0, 8),
        "no-room": _case(2, 40, 3, 0.1, 0),
        "no-rows": _case(2, 0, 3, 0.1, 4),
        "no-images": _case(0, 40, 3, 0.1, 4),
    }.items()
]

P = torch.zeros(2, 4, 8)


def public(predictions, threshold, most, multi_label):
    return ops.detection_candidates(predictions, threshold, max_candidates=most, multi_label=multi_label)


def bad(i, error, match, p=P, threshold=0.5, most=3):
    return Bad("detection_candidates", i, lambda: (p, threshold, most, False), error, match, public)


TABLE = {
    "detection_candidates": OpCases(
        CASES,
        [
            bad("dimensions", ValueError, r"must be \[N, A, 5 \+ classes\]", p=P[0]),
            bad("no-classes", ValueError, r"one class or more, got \[2, 4, 5\]", p=P[..., :5]),
            bad("dtype", TypeError, "float32, float16", p=P.long()),
            bad("negative-threshold", ValueError, "from 0 up, got -0.1", threshold=-0.1),
            bad("nan-threshold", ValueError, "from 0 up, got nan", threshold=float("nan")),
            bad("negative-most", ValueError, "must not be negative, got -1", most=-1),
        ],
        tolerance=dict.fromkeys((torch.float64, torch.float32, torch.float16, torch.bfloat16), (0.0, 0.0)),
        grad_tolerance=None,
    )
}
