import torch

from cnnkernels import ops

from .table import Bad, Case, OpCases, rand

LAYOUTS = ("nchw", "sliced", "expanded", "permuted")


def boxes(*shape: int, seed: int = 0) -> torch.Tensor:
    """Boxes around a few centres, so that some remove others at every threshold."""
    centre = rand(*shape, 2, seed=seed, high=60.0)
    size = rand(*shape, 2, seed=seed + 1, low=5.0, high=40.0)
    return torch.cat((centre - size / 2, centre + size / 2), -1)


def ids(*shape: int, many: int = 3) -> torch.Tensor:
    return (rand(*shape, seed=9, high=many).long() - 1) * 10**12


def _nms(n: int, threshold: float, kind: str, beta: float = 1.0, classes: bool = False, images: bool = False):
    return lambda: (
        boxes(n),
        rand(n, seed=5),
        threshold,
        kind,
        beta,
        ids(n) if classes else None,
        ids(n, many=2) if images else None,
    )


def _padded(b: int, n: int, kind: str, max_out: int, classes: bool = False, beta: float = 1.0):
    return lambda: (boxes(b, n), rand(b, n, seed=5), 0.4, kind, beta, ids(b, n) if classes else None, max_out)


NMS = [
    Case("nms", i, a, data=(0, 1), layouts=LAYOUTS if i == "diou" else ("nchw",))
    for i, a in {
        "iou": _nms(150, 0.5, "iou"),
        "giou": _nms(70, 0.2, "giou"),
        "giou-below-0": _nms(70, -0.3, "giou"),
        "diou": _nms(131, 0.45, "diou"),
        "diou-beta": _nms(131, 0.4, "diou", 0.6),
        "ciou": _nms(131, 0.3, "ciou"),
        "classes": _nms(140, 0.3, "diou", classes=True),
        "classes-images": _nms(140, 0.3, "diou", classes=True, images=True),
        "one": _nms(1, 0.5, "diou"),
        "none": _nms(0, 0.5, "diou"),
    }.items()
]
PADDED = [
    Case("nms_padded", i, a, data=(0, 1), layouts=("nchw", "sliced") if i == "diou" else ("nchw",))
    for i, a in {
        "diou": _padded(2, 70, "diou", 80),
        "few": _padded(2, 70, "iou", 3),
        "classes": _padded(3, 65, "ciou", 20, classes=True),
        "no-room": _padded(2, 10, "diou", 0),
        "no-images": _padded(0, 10, "diou", 4),
        "no-boxes": _padded(2, 0, "diou", 4),
    }.items()
]
B, S = torch.zeros(3, 4), torch.zeros(3)


def public(boxes, scores, threshold, kind, beta, class_ids, batch_ids):
    return ops.nms(boxes, scores, threshold, kind=kind, beta=beta, class_ids=class_ids, batch_ids=batch_ids)


def public_padded(boxes, scores, threshold, kind, beta, class_ids, max_out):
    return ops.nms_padded(boxes, scores, threshold, kind=kind, beta=beta, class_ids=class_ids, max_out=max_out)


def bad(i, error, match, b=B, s=S, t=0.5, kind="diou", beta=1.0, classes=None, images=None):
    return Bad("nms", i, lambda: (b, s, t, kind, beta, classes, images), error, match, public)


def bad_padded(i, error, match, b=B[None], s=S[None], classes=None, max_out=3):
    return Bad("nms_padded", i, lambda: (b, s, 0.5, "diou", 1.0, classes, max_out), error, match, public_padded)


EXACT = dict.fromkeys((torch.float64, torch.float32, torch.float16, torch.bfloat16), (0.0, 0.0))
TABLE = {
    "nms": OpCases(
        NMS,
        [
            bad("five columns", ValueError, r"boxes must be \[N, 4\], got \[3, 5\]", b=torch.zeros(3, 5)),
            bad("batch", ValueError, r"boxes must be \[N, 4\]", b=B[None]),
            bad("scores longer", ValueError, r"scores must be \[3\], one per box, got \[4\]", s=torch.zeros(4)),
            bad("integer boxes", TypeError, "boxes must be float32", b=B.long()),
            bad("dtypes differ", TypeError, "scores must be torch.float32", s=S.half()),
            bad("float classes", TypeError, "class_ids must be a tensor of integers", classes=S),
            bad("classes shape", ValueError, r"class_ids must be \[3\]", classes=torch.zeros(2).long()),
            bad("float images", TypeError, "batch_ids must be a tensor of integers", images=S),
            bad("NaN threshold", ValueError, "iou_threshold must be a number", t=float("nan")),
            bad("kind", ValueError, "kind must be one of iou, giou", kind="eiou"),
            bad("beta", ValueError, "beta must be a finite number above 0", beta=0.0),
        ],
        EXACT,
        None,
    ),
    "nms_padded": OpCases(
        PADDED,
        [
            bad_padded("no batch", ValueError, r"boxes must be \[B, N, 4\]", b=B),
            bad_padded("scores", ValueError, r"scores must be \[1, 3\]", s=torch.zeros(1, 4)),
            bad_padded("classes", TypeError, "class_ids must be a tensor of integers", classes=S[None]),
            bad_padded("max_out", ValueError, "max_out must not be negative, got -1", max_out=-1),
        ],
        EXACT,
        None,
    ),
}
