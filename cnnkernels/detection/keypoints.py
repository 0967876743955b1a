"""Key points from the heat maps of a pose network, and the flip test.

A heat map has the value of key point (x, y) at its row y and column x; key points are in pixels of the heat map, and
(0, 0) is the middle of the first pixel.  All of it is plain tensor arithmetic without a loop over people or key points:
it runs on any device and compiles to one graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

METHODS = ("argmax", "quarter", "dark")

Pairs = Sequence[tuple[int, int]]
"""Key points that change places when a person is mirrored."""
COCO_PAIRS: Pairs = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16))
MPII_PAIRS: Pairs = ((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13))


def decode_heatmaps(heatmaps: Tensor, *, method: str = "quarter", blur: int = 11) -> tuple[Tensor, Tensor]:
    """The key point that each heat map [N, K, H, W] shows, and how sure it is of it.

    method:
        argmax   the pixel with the largest value, the first one of equals
        quarter  from there a quarter of a pixel in x and in y, towards the larger neighbour (Newell et al. 2016,
                 arXiv:1603.06937, section 3.1); not from the pixels 0, 1 and the last one of a row or column, as in the
                 code of Xiao et al. and Sun et al.
        dark     from there to the top of the parabola that the logarithm of the smoothed map is near it (Zhang et al.
                 2019, arXiv:1910.06278, equations 6 to 9), which is exact for a Gaussian; not from the outer two pixels,
                 not where the map does not curve as at a maximum, and not by more than two pixels
    blur: pixels of the Gaussian that "dark" smooths with, odd; the authors take 11 for maps of 64 x 48, 17 for 96 x 72.
        1 leaves the maps as they are.

    Returns key points [N, K, 2] (x, y) and scores [N, K], the maps' largest values; float32, or float64 for float64.
    A value that is NaN or infinite counts as 0.  A map with no value above 0 shows no key point: it gets (0, 0), and its
    score is not above 0.  Raises TypeError for maps that are not floating-point, ValueError for another shape, an unknown
    method, an even blur.
    """
    maps = _checked(heatmaps)
    if method not in METHODS:
        raise ValueError(f"decode_heatmaps: method must be one of {', '.join(METHODS)}, got {method!r}")
    if blur < 1 or blur % 2 == 0:
        raise ValueError(f"decode_heatmaps: blur must be odd and at least 1, got {blur}")
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32)).nan_to_num(0.0, 0.0, 0.0)
    width = maps.shape[3]
    flat = maps.flatten(2)
    index = flat.argmax(2, keepdim=True)
    scores = flat.gather(2, index).squeeze(2)
    pixel = torch.cat((index % width, index // width), 2)
    points = pixel.to(maps.dtype)
    if method == "quarter":
        points = points + _quarter(maps, pixel)
    elif method == "dark":
        points = points + _dark(maps, pixel, blur)
    return torch.where(scores[..., None] > 0, points, 0), scores


def _checked(heatmaps: Tensor) -> Tensor:
    if not heatmaps.is_floating_point():
        raise TypeError(f"decode_heatmaps: heatmaps must be floating-point, got {heatmaps.dtype}")
    if heatmaps.dim() != 4 or 0 in heatmaps.shape[2:]:
        raise ValueError(f"decode_heatmaps: heatmaps must be [N, K, H, W] with pixels, got {list(heatmaps.shape)}")
    return heatmaps


def _within(maps: Tensor, pixel: Tensor, before: int, behind: int) -> Tensor:
    """[N, K, 1]: whether a pixel has so many others before and behind it, in its row and in its column."""
    x, y = pixel.unbind(2)
    height, width = maps.shape[2:]
    in_row, in_column = (x >= before) & (x < width - behind), (y >= before) & (y < height - behind)
    return (in_row & in_column)[..., None]


def _patches(maps: Tensor, pixel: Tensor, radius: int) -> Tensor:
    """[N, K, (2 radius + 1)^2]: the values around a pixel, row by row; beyond the border those on it."""
    height, width = maps.shape[2:]
    reach = torch.arange(-radius, radius + 1, device=maps.device)
    columns, rows = (pixel[..., None] + reach).unbind(2)
    index = rows.clamp(0, height - 1)[..., :, None] * width + columns.clamp(0, width - 1)[..., None, :]
    return maps.flatten(2).gather(2, index.flatten(2))


def _quarter(maps: Tensor, pixel: Tensor) -> Tensor:
    """Offsets [N, K, 2] of -0.25, 0 or 0.25."""
    _, up, _, left, _, right, _, down, _ = _patches(maps, pixel, 1).unbind(2)
    towards = torch.stack((right - left, down - up), 2).sign()
    return torch.where(_within(maps, pixel, 2, 1), 0.25 * towards, 0)


def _dark(maps: Tensor, pixel: Tensor, blur: int) -> Tensor:
    """Offsets [N, K, 2]: -H^-1 g of the logarithm, with differences over two pixels each way, as the authors' code has."""
    around = _patches(_smoothed(maps, blur), pixel, 2).clamp(min=1e-10).log().unflatten(2, (5, 5))

    def at(dx: int, dy: int) -> Tensor:
        return around[..., 2 + dy, 2 + dx]

    gx, gy = 0.5 * (at(1, 0) - at(-1, 0)), 0.5 * (at(0, 1) - at(0, -1))
    hxx = 0.25 * (at(2, 0) - 2 * at(0, 0) + at(-2, 0))
    hyy = 0.25 * (at(0, 2) - 2 * at(0, 0) + at(0, -2))
    hxy = 0.25 * (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1))
    determinant = hxx * hyy - hxy * hxy
    maximum = (determinant > 0) & (hxx < 0)
    divisor = torch.where(maximum, determinant, 1)
    offset = torch.stack((hxy * gy - hyy * gx, hxy * gx - hxx * gy), 2) / divisor[..., None]
    usable = maximum[..., None] & _within(maps, pixel, 2, 2) & (offset.abs() <= 2).all(2, keepdim=True)
    return torch.where(usable, offset, 0)


def _smoothed(maps: Tensor, size: int) -> Tensor:
    """Convolved with a Gaussian of so many pixels, of OpenCV's deviation for that size, with zeros around.

    Neither is it normalised nor, as by the authors, each map scaled to its old maximum: a factor is a constant of the
    logarithm.
    """
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8

    def along(length: int) -> Tensor:
        """As a matrix product: cuDNN would round to TF32, and second differences of a logarithm would show it."""
        place = torch.arange(length, dtype=maps.dtype, device=maps.device)
        distance = place[:, None] - place
        return torch.where(distance.abs() <= size // 2, (-distance.square() / (2 * sigma**2)).exp(), 0)

    return along(maps.shape[2]) @ maps @ along(maps.shape[3])


def flip_heatmaps(heatmaps: Tensor, pairs: Pairs, *, shift: bool = False) -> Tensor:
    """Heat maps [N, K, H, W] of mirrored images as they are for the images: mirrored, left and right exchanged.

    shift: also one pixel to the right, the first column kept.  A network that sees every fourth pixel sees others in the
        mirrored image; with it the two maps lie nearer to each other (the authors' SHIFT_HEATMAP).

    Raises ValueError for a pair that is none of the K key points', or one in two pairs.
    """
    order = list(range(heatmaps.shape[1]))
    members = [i for pair in pairs for i in pair]
    if len(set(members)) < len(members) or not set(members) <= set(order):
        raise ValueError(f"flip_heatmaps: pairs must be of different ones of {len(order)} key points, got {pairs}")
    for left, right in pairs:
        order[left], order[right] = right, left
    flipped = heatmaps[:, order].flip(3)
    return torch.cat((flipped[..., :1], flipped[..., :-1]), 3) if shift else flipped


def flip_test(model: Callable[[Tensor], Tensor], x: Tensor, pairs: Pairs, *, shift: bool = True) -> Tensor:
    """The mean of the heat maps of images x [N, C, H, W] and of those of the mirrored images.

    What the published AP of pose networks are measured with.  model: a network in evaluation.
    """
    return (model(x) + flip_heatmaps(model(x.flip(3)), pairs, shift=shift)) / 2
