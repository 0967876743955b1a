import torch

from cnnkernels import ops

from .table import HALF, LAYOUTS, Bad, Case, OpCases, rand, randn

KINDS = ("iou", "giou", "diou", "ciou")
UNUSUAL = [  # pairs: pred, target.  NaN and infinity: tests/test_box_iou_loss.py
    ([2, 3, 10, 9], [2, 3, 10, 9]),  # identical
    ([2, 3, 10, 9], [2, 3, 10, 30]),  # three edges in common
    ([0, 0, 4, 4], [4, 0, 8, 4]),  # touching
    ([0, 0, 4, 4], [20, 30, 28, 31]),  # apart
    ([0, 0, 32, 32], [8, 8, 12, 16]),  # one inside the other
    ([5, 5, 5, 9], [2, 3, 10, 12]),  # no width
    ([5, 5, 5, 5], [5, 5, 5, 5]),  # a point twice
    ([5, 5, 5, 5], [7, 2, 7, 2]),  # two points
    ([9, 2, 3, 8], [2, 3, 10, 12]),  # x2 < x1
    ([9, 8, 3, 2], [9, 8, 3, 2]),  # inside out
]


def boxes(n: int, seed: int = 0) -> torch.Tensor:
    """Boxes of sizes from 5 to 40 with centres in a square of 60: most pairs overlap."""
    centre, size = rand(n, 2, seed=seed, high=60.0), rand(n, 2, seed=seed + 1, low=5.0, high=40.0)
    return torch.cat((centre - size / 2, centre + size / 2), 1)


def pair(n: int):
    return boxes(n), boxes(n, seed=5)


def unusual():
    return tuple(torch.tensor(t, dtype=torch.float64) for t in zip(*UNUSUAL, strict=True))


def _calls():
    """(id, the boxes, kind, reduction, layouts)"""
    for kind in KINDS:
        yield kind, lambda: pair(70), kind, "none", LAYOUTS if kind == "ciou" else ("nchw", "channels_last")
    for reduction in ("mean", "sum"):
        yield reduction, lambda: pair(70), "ciou", reduction, LAYOUTS
    for kind in KINDS:
        yield f"unusual-{kind}", unusual, kind, "none", ("nchw",)
    yield "one", lambda: pair(1), "giou", "none", ("nchw",)
    yield "parts", lambda: pair(4500), "giou", "mean", ("nchw",)  # of the CPU's sum, the CUDA blocks, Triton programs
    for reduction in ("none", "mean", "sum"):
        yield f"empty-{reduction}", lambda: pair(0), "ciou", reduction, ("nchw",)


def _backward(make, reduction):
    def args():
        pred, target = make()
        return (randn(len(pred), seed=3) if reduction == "none" else randn(seed=3)), pred, target

    return args


FORWARD, BACKWARD = [], []
for i, make, kind, reduction, layouts in _calls():
    tail = (kind, reduction)
    FORWARD.append(Case("box_iou_loss", i, lambda m=make, t=tail: (*m(), *t), data=(0, 1), layouts=layouts))
    for both in (True, False):
        grads = _backward(make, reduction)
        BACKWARD.append(
            Case(
                "box_iou_loss_backward",
                i if both else f"{i}-pred",
                lambda g=grads, t=tail, both=both: (*g(), *t, both),
                data=(1, 2),
                layouts=layouts if both else ("nchw",),
            )
        )

B, G = torch.zeros(3, 4), torch.zeros(3)


def bad(i, error, match, pred=B, target=B, kind="ciou", reduction="none"):
    return Bad("box_iou_loss", i, lambda: (pred, target, kind, reduction), error, match, ops.box_iou_loss)


def bad_backward(i, error, match, grad=G, pred=B, target=B, kind="ciou", reduction="none"):
    return Bad("box_iou_loss_backward", i, lambda: (grad, pred, target, kind, reduction, True), error, match)


# Losses are float32 for half types too, of the boxes as they are: a dozen roundings of values up to 3.
LOSS = {torch.float64: (1e-12, 1e-12), **dict.fromkeys((torch.float32, *HALF), (2e-6, 2e-6))}
GRADIENT = {
    torch.float64: (1e-11, 1e-11),
    torch.float32: (1e-5, 1e-6),
    torch.float16: (1e-3, 1e-5),
    torch.bfloat16: (8e-3, 1e-5),
}
TABLE = {
    "box_iou_loss": OpCases(
        FORWARD,
        [
            bad(
                "five columns", ValueError, r"pred must be \[N, 4\] \(x1, y1, x2, y2\), got \[3, 5\]", torch.zeros(3, 5)
            ),
            bad("batch", ValueError, r"pred must be \[N, 4\]", B[None], B[None]),
            bad("shapes", ValueError, r"target must have the shape of pred, \[3, 4\], got \[2, 4\]", target=B[:2]),
            bad("integers", TypeError, "pred must be float32", B.long(), B.long()),
            bad("dtypes", TypeError, "target must be torch.float32", target=B.half()),
            bad("kind", ValueError, "kind must be one of iou, giou", kind="siou"),
            bad("reduction", ValueError, "reduction must be one of none, mean, sum, got 'max'", reduction="max"),
        ],
        LOSS,
        GRADIENT,
        no_gradcheck="ciou's alpha is a constant to the gradient; tests/test_box_iou_loss.py checks the other kinds",
    ),
    "box_iou_loss_backward": OpCases(
        BACKWARD,
        [
            bad_backward("grad", ValueError, r"grad must have the loss's shape \[3\], got \[2\]", grad=G[:2]),
            bad_backward("a grad each", ValueError, r"grad must have the loss's shape \[\]", reduction="sum"),
            bad_backward("dtype", TypeError, "grad must be torch.float32", grad=G.double()),
            bad_backward("boxes", ValueError, r"target must have the shape of pred", target=B[:2]),
        ],
        GRADIENT,
        {**GRADIENT, torch.float32: (1e-4, 1e-5), torch.float16: (4e-3, 1e-3), torch.bfloat16: (3e-2, 1e-2)},
        no_gradcheck="ciou's alpha is a constant to the second gradient, too",
    ),
}
