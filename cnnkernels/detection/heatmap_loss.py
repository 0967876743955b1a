"""What a pose network is trained with: a Gaussian around each key point, and the distance to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def gaussian_heatmaps(
    keypoints: Tensor, visible: Tensor, size: tuple[int, int], sigma: float = 2.0, *, rounded: bool = True
) -> tuple[Tensor, Tensor]:
    """Targets [N, K, H, W] with ``exp(-d^2 / (2 sigma^2))`` at the distance d of a key point, and weights [N, K].

    keypoints: [N, K, 2] (x, y) in pixels of the heat map.  visible: [N, K], above 0.5 for those to be learnt.
    size: (H, W).  sigma: pixels; the authors take 2 for 64 x 48 and 3 for 96 x 72.
    rounded: the Gaussian is that of the nearest pixel, cut off 3 sigma beside it (Xiao et al. 2018, arXiv:1804.06208);
        False: that of the key point itself, all of it, without which ``decode_heatmaps(method="dark")`` has a bias
        (Zhang et al. 2019, arXiv:1910.06278, section 3.3).

    A map is 0 and so is its weight where the key point is not visible, is NaN or infinite, or lies so far outside that no
    pixel is within 3 sigma in x and in y; else the weight is ``visible``.  float32, or float64 for float64.
    Raises ValueError for other shapes and a sigma that is not above 0.
    """
    if keypoints.dim() != 3 or keypoints.shape[2] != 2 or visible.shape != keypoints.shape[:2]:
        raise ValueError(
            "gaussian_heatmaps: keypoints must be [N, K, 2] and visible [N, K], "
            f"got {list(keypoints.shape)} and {list(visible.shape)}"
        )
    if not sigma > 0 or min(size) < 1:
        raise ValueError(f"gaussian_heatmaps: sigma and size must be above 0, got {sigma} and {size}")
    keypoints = keypoints.to(torch.promote_types(keypoints.dtype, torch.float32))
    centre = (keypoints + 0.5).floor() if rounded else keypoints
    reach, sides, inside = int(3 * sigma), list[Tensor](), list[Tensor]()
    for axis, length in enumerate((size[1], size[0])):
        distance = torch.arange(length, dtype=centre.dtype, device=centre.device) - centre[..., axis, None]
        near = distance.abs() <= reach
        inside.append(near.any(2))
        side = (-distance.square() / (2 * sigma**2)).exp()
        sides.append(torch.where(near, side, 0) if rounded else side)
    counts = inside[0] & inside[1] & (visible > 0.5)
    targets = sides[1][..., :, None] * sides[0][..., None, :]
    return torch.where(counts[..., None, None], targets, 0), torch.where(counts, visible, 0).to(targets.dtype)


class HeatmapLoss(nn.Module):
    """Half the mean of ``(weight * (heatmap - target))^2`` over all pixels: the joint MSE loss of the authors' code.

    ``loss(heatmaps, targets, weights)``: heatmaps [N, K, H, W], or a sequence of such (every stack of an hourglass), whose
    losses are added up; targets [N, K, H, W]; weights [N, K], or None for 1.  Computed in float32 (float64 stays).
    Returns a scalar, 0 where N or K is 0.  Raises ValueError for shapes that do not fit.
    """

    def forward(self, heatmaps: Tensor | Sequence[Tensor], targets: Tensor, weights: Tensor | None = None) -> Tensor:
        every = [heatmaps] if isinstance(heatmaps, Tensor) else list(heatmaps)
        if not every or any(maps.shape != targets.shape for maps in every) or targets.dim() != 4:
            raise ValueError(
                f"HeatmapLoss: heatmaps and targets must be [N, K, H, W], got {[list(maps.shape) for maps in every]} "
                f"and {list(targets.shape)}"
            )
        if weights is not None and weights.shape != targets.shape[:2]:
            raise ValueError(f"HeatmapLoss: weights must be {list(targets.shape[:2])}, got {list(weights.shape)}")
        return torch.stack([self._of(maps, targets, weights) for maps in every]).sum()

    @staticmethod
    def _of(heatmaps: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        with torch.autocast(heatmaps.device.type, enabled=False):
            error = heatmaps.to(torch.promote_types(heatmaps.dtype, torch.float32)) - targets
            if weights is not None:
                error = error * weights[..., None, None]
            return 0.5 * error.square().sum() / max(error.numel(), 1)
