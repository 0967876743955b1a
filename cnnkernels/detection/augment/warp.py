"""Pictures and boxes under an affine map.

Coordinates are continuous: pixel (column i, row j) covers [i, i + 1) x [j, j + 1).  A map is a [3, 3] float64 matrix that
takes (x, y, 1) of the source to the destination; maps compose as matrices do.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cnnkernels.detection.sample import Image, Sample

Matrix = NDArray[np.float64]
Boxes = NDArray[np.float32]
Labels = NDArray[np.int64]

MIN_SIDE, MIN_SHARE, MAX_ASPECT = 2.0, 0.1, 100.0


def scaling(x: float, y: float) -> Matrix:
    return np.diag([x, y, 1.0])


def translation(x: float, y: float) -> Matrix:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def rotation(degrees: float) -> Matrix:
    """About the origin, clockwise as one looks at the picture."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def shear(x_degrees: float, y_degrees: float) -> Matrix:
    x, y = math.tan(math.radians(x_degrees)), math.tan(math.radians(y_degrees))
    return np.array([[1.0, x, 0.0], [y, 1.0, 0.0], [0.0, 0.0, 1.0]])


def canvas(size: tuple[int, int], fill: int) -> Image:
    """[H, W, 3] of one grey level."""
    return np.full((*size, 3), fill, np.uint8)


def draw(target: Image, image: Image, matrix: Matrix) -> None:
    """Draws ``image``, mapped by ``matrix``, into ``target``: every pixel whose middle lies in it.

    Bilinear; nothing is averaged where the map shrinks, as in the authors' warpAffine.
    """
    height, width = image.shape[:2]
    corners = _mapped(np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64), matrix)
    x1, y1 = np.floor(corners.min(axis=0)).clip(0).astype(int).tolist()
    x2, y2 = np.minimum(np.ceil(corners.max(axis=0)), target.shape[1::-1]).astype(int).tolist()
    if x2 <= x1 or y2 <= y1:
        return
    back = np.linalg.inv(matrix)
    # Where the middles of the target's pixels come from: u = u_x[column] + u_y[row], and v likewise.
    columns, rows = np.arange(x1, x2) + 0.5, np.arange(y1, y2) + 0.5
    (u_x, v_x), (u_y, v_y) = back[:2, 0, None] * columns, back[:2, 1, None] * rows + back[:2, 2, None]
    window = target[y1:y2, x1:x2]
    if back[0, 1] == 0 and back[1, 0] == 0:
        # Upright: the pixels inside are a rectangle.
        inside_x, inside_y = (u_x + u_y[0] >= 0) & (u_x + u_y[0] < width), (v_y + v_x[0] >= 0) & (v_y + v_x[0] < height)
        u_x, v_x, u_y, v_y = u_x[inside_x], v_x[inside_x], u_y[inside_y], v_y[inside_y]
        if not len(u_x) or not len(u_y):
            return
        window = window[_span(inside_y), _span(inside_x)]
        window[:] = _sampled(image, u_x, u_y, v_x, v_y)
        return
    u, v = u_x + u_y[:, None], v_x + v_y[:, None]
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    np.copyto(window, _sampled(image, u_x, u_y, v_x, v_y), where=inside[..., None])


def _span(mask: NDArray[np.bool_]) -> slice:
    """Of the True elements, which are neighbours."""
    first = int(mask.argmax())
    return slice(first, first + int(mask.sum()))


def _sampled(image: Image, u_x: Matrix, u_y: Matrix, v_x: Matrix, v_y: Matrix) -> Image:
    height, width = image.shape[:2]
    grid = torch.empty(1, len(u_y), len(u_x), 2)
    for axis, (along, down, length) in enumerate(((u_x, u_y, width), (v_x, v_y, height))):
        a, d = (torch.from_numpy(2 * t / length).float() for t in (along, down))
        torch.add(a, d[:, None] - 1, out=grid[0, :, :, axis])
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    sampled = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[0].add_(0.5).to(torch.uint8).permute(1, 2, 0).numpy()


def _mapped(points: Matrix, matrix: Matrix) -> Matrix:
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def map_boxes(boxes: Boxes, matrix: Matrix) -> Boxes:
    """The upright boxes [K, 4] around the mapped boxes; exact while the map only scales, moves and mirrors."""
    corners = boxes.astype(np.float64)[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    mapped = _mapped(corners.reshape(-1, 2), matrix).reshape(-1, 4, 2)
    return np.concatenate([mapped.min(axis=1), mapped.max(axis=1)], axis=1).astype(np.float32)


def clip_boxes(boxes: Boxes, labels: Labels, size: tuple[int, int]) -> tuple[Boxes, Labels]:
    """Boxes cut to a picture of ``size`` (height, width), less those with too little left.

    A box stays if what is left has both sides longer than 2 pixels, at least a tenth of the box's area, and sides that differ
    by less than a hundred times (YOLOv5's rule).
    """
    height, width = size
    cut = np.minimum(boxes.clip(min=0), np.array([width, height, width, height], np.float32))
    sides, before = cut[:, 2:] - cut[:, :2], boxes[:, 2:] - boxes[:, :2]
    longer, shorter = sides.max(axis=1), sides.min(axis=1)
    stays = (shorter > MIN_SIDE) & (longer < MAX_ASPECT * shorter)
    stays &= sides.prod(axis=1) >= MIN_SHARE * before.prod(axis=1)
    return cut[stays], labels[stays]


def warp(sample: Sample, matrix: Matrix, size: tuple[int, int], fill: int = 114) -> Sample:
    """``sample`` mapped into a picture of ``size``; boxes as ``map_boxes`` and ``clip_boxes`` say."""
    image = canvas(size, fill)
    draw(image, sample.image, matrix)
    return Sample(image, *clip_boxes(map_boxes(sample.boxes, matrix), sample.labels, size))
