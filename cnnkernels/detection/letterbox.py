"""Letterbox: a picture of any size into a network's input, undistorted, and boxes there and back.

The scale that fits, the rest padded.  With adaptive scaling (YOLOv5) only up to the next multiple of the stride: a
640 x 360 picture for an input of 640 becomes 640 x 384 rather than 640 x 640, 40 % less to compute.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cnnkernels.detection.sample import Image
from cnnkernels.models.detection_network import Preprocessing

GREY = (114, 114, 114)


@dataclass(frozen=True)
class Letterbox:
    """Where a picture lies in the input.  Sizes are (height, width)."""

    picture_size: tuple[int, int]
    scaled_size: tuple[int, int]
    """Of the picture within the input."""
    top: int
    left: int
    input_size: tuple[int, int]

    @classmethod
    def fit(
        cls,
        picture_size: tuple[int, int],
        size: int | tuple[int, int],
        *,
        stride: int = 32,
        adaptive: bool = True,
        centred: bool = True,
        upscale: bool = True,
    ) -> Letterbox:
        """The place of a picture in an input of at most ``size``; see ``letterbox``."""
        room = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        height, width = picture_size
        if height < 1 or width < 1:
            raise ValueError(f"letterbox: the picture has no pixels: {height} x {width}")
        if stride < 1 or min(room) < 1 or room[0] % stride or room[1] % stride:
            raise ValueError(f"letterbox: size must be of positive multiples of the stride {stride}, got {room}")
        scale = min(room[0] / height, room[1] / width)
        scale = scale if upscale else min(scale, 1.0)
        scaled = (max(round(height * scale), 1), max(round(width * scale), 1))
        rest = [room[0] - scaled[0], room[1] - scaled[1]]
        if adaptive:
            rest = [r % stride for r in rest]
        # An odd rest: the smaller half above and left, as the authors' rounding of half -/+ 0.1 has it.
        top, left = (rest[0] // 2, rest[1] // 2) if centred else (0, 0)
        return cls((height, width), scaled, top, left, (scaled[0] + rest[0], scaled[1] + rest[1]))

    def to_input(self, boxes: Tensor) -> Tensor:
        """Boxes [..., 4] (x1, y1, x2, y2) of the picture, in pixels of the input."""
        return boxes * self._like(boxes, self._scale()) + self._like(boxes, (self.left, self.top))

    def to_picture(self, boxes: Tensor, *, clip: bool = True) -> Tensor:
        """Boxes [..., 4] of the input, in pixels of the picture; with ``clip`` none reaches beyond it."""
        boxes = (boxes - self._like(boxes, (self.left, self.top))) / self._like(boxes, self._scale())
        if not clip:
            return boxes
        height, width = self.picture_size
        return torch.minimum(boxes.clamp(min=0), self._like(boxes, (width, height)))

    def place(self, image: Image, fill: tuple[int, int, int] = GREY) -> Image:
        """The input [H, W, 3], uint8, with a picture of ``picture_size`` in its place and ``fill`` around it."""
        if image.shape[:2] != self.picture_size:
            raise ValueError(f"letterbox: made for a picture of {self.picture_size}, got one of {image.shape[:2]}")
        canvas = np.empty((*self.input_size, 3), np.uint8)
        canvas[:] = np.array(fill, np.uint8)
        bottom, right = self.top + self.scaled_size[0], self.left + self.scaled_size[1]
        canvas[self.top : bottom, self.left : right] = resize(image, self.scaled_size)
        return canvas

    def _scale(self) -> tuple[float, float]:
        """Across and down: what the picture was resized by, which rounding parts a little from the one scale."""
        return self.scaled_size[1] / self.picture_size[1], self.scaled_size[0] / self.picture_size[0]

    @staticmethod
    def _like(boxes: Tensor, pair: tuple[float, float]) -> Tensor:
        return torch.tensor([*pair, *pair], dtype=boxes.dtype, device=boxes.device)


def resize(image: Image, size: tuple[int, int]) -> Image:
    """Bilinear, uint8 [H, W, 3] to (height, width), pixel centres at one half, to within one grey level.

    Nothing is averaged on the way down: the published detectors were trained on pictures scaled by OpenCV's
    INTER_LINEAR, which is this.
    """
    if image.shape[:2] == size:
        return image
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    scaled = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
    return scaled[0].permute(1, 2, 0).numpy()


def letterbox(
    image: Image,
    size: int | tuple[int, int],
    *,
    stride: int = 32,
    adaptive: bool = True,
    fill: tuple[int, int, int] = GREY,
    centred: bool = True,
    upscale: bool = True,
) -> tuple[Image, Letterbox]:
    """``image`` (uint8 [H, W, 3]) scaled into ``size`` and padded, and the transform that takes boxes there and back.

    size: (height, width) of the input, or one number for a square; multiples of ``stride``.
    adaptive: pad to the next multiple of ``stride`` only; False: to the whole of ``size``.
    fill: red, green, blue of the padding.
    centred: half the padding on each side; False: all of it below and right.
    upscale: False: a picture smaller than ``size`` keeps its size.

    ValueError if ``size`` is no multiple of ``stride``, or the picture is no uint8 [H, W, 3] or has no pixels.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"letterbox: image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    place = Letterbox.fit(image.shape[:2], size, stride=stride, adaptive=adaptive, centred=centred, upscale=upscale)
    return place.place(image, fill), place


def normalise(image: Image, preprocessing: Preprocessing) -> Tensor:
    """uint8 [H, W, 3] as a network takes it: float32 [3, H, W], ``(pixel / scale - mean) / std``, BGR where asked."""
    order = [2, 1, 0] if preprocessing.bgr else [0, 1, 2]
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[order].float()
    mean = torch.tensor(preprocessing.mean)[:, None, None] * preprocessing.scale
    std = torch.tensor(preprocessing.std)[:, None, None] * preprocessing.scale
    return (pixels - mean) / std


def prepare(
    image: Image,
    preprocessing: Preprocessing,
    size: int | tuple[int, int],
    *,
    stride: int = 32,
    adaptive: bool = True,
    upscale: bool = True,
) -> tuple[Tensor, Letterbox]:
    """A picture as ``preprocessing`` says: the input [3, H, W] float32, and where the picture lies in it.

    Arguments and errors of ``letterbox``.
    """
    boxed, place = letterbox(
        image,
        size,
        stride=stride,
        adaptive=adaptive,
        fill=preprocessing.fill,
        centred=preprocessing.centred,
        upscale=upscale,
    )
    return normalise(boxed, preprocessing), place
