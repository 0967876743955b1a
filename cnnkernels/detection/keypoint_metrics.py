"""How good key points are: object key point similarity (COCO) and PCKh (MPII)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035),  # nose, eyes, ears
    *(0.079, 0.079, 0.072, 0.072, 0.062, 0.062),  # shoulders, elbows, wrists
    *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),  # hips, knees, ankles
)
"""Deviation of people who mark the same key point, relative to the root of the person's area."""
MPII_TRUNK = (6, 7)
"""Pelvis and thorax, which PCKh's mean leaves out."""


def _distances(found: Tensor, true: Tensor, visible: Tensor) -> Tensor:
    """[..., K]: between key points [..., K, 2]; infinite where one of them is NaN."""
    if found.shape[-1:] != (2,) or found.shape[-2:] != true.shape[-2:] or visible.shape != true.shape[:-1]:
        raise ValueError(
            "key points found and true must be [..., K, 2] and visible [..., K], "
            f"got {list(found.shape)}, {list(true.shape)} and {list(visible.shape)}"
        )
    return (found - true).square().sum(-1).sqrt().nan_to_num(torch.inf, torch.inf)


def oks(found: Tensor, true: Tensor, visible: Tensor, area: Tensor, sigmas: Sequence[float] = COCO_SIGMAS) -> Tensor:
    """Object key point similarity [...], 0 to 1: the mean of ``exp(-d_k^2 / (2 area (2 sigma_k)^2))`` over the visible k.

    found, true: [..., K, 2] (x, y) in pixels of the picture, d_k apart.  visible: [..., K], above 0 where ``true`` was
    marked.  area: [...], of the person's outline, square pixels.  Leading dimensions broadcast: for all pairs of D
    people found and G true ones pass found[:, None] and the others as they are.

    As in COCO's evaluation, but for a person none of whose key points was marked, whom that compares by box: 0 here.  A key
    point found as NaN adds 0.
    """
    d = _distances(found, true, visible)
    deviation = 2 * torch.tensor(sigmas, dtype=d.dtype, device=d.device)
    if len(deviation) != d.shape[-1]:
        raise ValueError(f"oks: sigmas must be of {d.shape[-1]} key points, got {len(deviation)}")
    eps = torch.finfo(torch.float64).eps  # COCO's, against areas of 0
    similarity = (-(d / deviation).square() / (2 * (area[..., None] + eps))).exp()
    marked = visible > 0
    return (similarity * marked).sum(-1) / marked.sum(-1).clamp(min=1)


def pckh(
    found: Tensor,
    true: Tensor,
    visible: Tensor,
    head_boxes: Tensor,
    *,
    threshold: float = 0.5,
    left_out: Sequence[int] = MPII_TRUNK,
) -> tuple[Tensor, Tensor]:
    """Share of key points found within ``threshold`` head sizes: of each key point [K], and of all but ``left_out``.

    found, true: [N, K, 2] (x, y) in pixels of the picture.  visible: [N, K], above 0 for those that count.
    head_boxes: [N, 4] (x1, y1, x2, y2); the head size is 0.6 of the diagonal (MPII's evaluation; Andriluka et al. 2014).

    Shares are 0 to 1 (papers give %), and NaN of key points that count nowhere.  One found as NaN is not found.
    """
    d = _distances(found, true, visible)
    if head_boxes.shape != (len(d), 4):
        raise ValueError(f"pckh: head_boxes must be [{len(d)}, 4], got {list(head_boxes.shape)}")
    head = 0.6 * (head_boxes[:, 2:] - head_boxes[:, :2]).square().sum(1, keepdim=True).sqrt()
    counts = visible > 0
    hits = (counts & (d <= threshold * head)).sum(0)
    counted = counts.sum(0)
    kept = [k for k in range(d.shape[1]) if k not in left_out]
    return hits / counted, hits[kept].sum() / counted[kept].sum()
