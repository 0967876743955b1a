"""Gaussians at known places, to be found again."""

import torch

from cnnkernels.detection.heatmap_loss import gaussian_heatmaps

SIZE = (64, 48)


def spread(n=6, k=17, margin=6.0, seed=0):
    """Key points [n, k, 2] at sub-pixel places of a map of SIZE."""
    generator = torch.Generator().manual_seed(seed)
    room = torch.tensor((SIZE[1], SIZE[0])) - 1 - 2 * margin
    return margin + torch.rand(n, k, 2, generator=generator, dtype=torch.float64) * room


def maps_of(points, sigma=2.0, rounded=False):
    return gaussian_heatmaps(points, torch.ones(points.shape[:2]), SIZE, sigma, rounded=rounded)[0]
