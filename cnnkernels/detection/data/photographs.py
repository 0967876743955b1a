"""What scikit-image's wheel carries: photographs to put things on, and things cut out of them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from cnnkernels.detection.sample import Image

Box = tuple[int, int, int, int]

BACKGROUNDS: dict[str, Box | None] = {
    "brick": None,
    "grass": None,
    "gravel": None,
    "cat": None,
    "hubble_deep_field": None,
    "immunohistochemistry": None,
    "moon": None,
    "rocket": None,
    "stereo_motorcycle": None,
    "astronaut": (310, 0, 512, 300),
    "camera": (250, 0, 512, 512),
}
"""Functions of skimage.data, and the part (x1, y1, x2, y2) that shows nothing of a class that is cut out elsewhere."""

COINS: tuple[Box, ...] = (
    *((131, 28, 180, 75), (191, 29, 241, 74), (254, 33, 298, 73), (21, 34, 68, 75), (80, 38, 121, 75)),
    *((244, 95, 297, 145), (24, 103, 68, 146), (185, 104, 228, 146), (316, 104, 357, 146), (83, 106, 123, 146)),
    *((133, 109, 175, 146), (314, 155, 380, 219), (188, 169, 238, 218), (250, 171, 298, 218), (79, 174, 125, 218)),
    *((24, 177, 64, 218), (134, 178, 175, 218), (304, 15, 366, 73)),
)
"""Boxes of whole coins in skimage.data.coins; a coin is the ellipse in its box."""

CUP = (
    *((181, 76), (185, 60), (200, 44), (225, 30), (255, 21), (285, 18), (310, 19), (340, 27), (365, 40), (385, 55)),
    *((398, 72), (407, 90), (409, 108), (418, 110), (435, 122), (452, 140), (467, 165), (476, 195), (480, 225)),
    *((477, 255), (468, 285), (452, 312), (430, 340), (400, 361), (360, 378), (320, 388), (280, 390), (240, 386)),
    *((200, 374), (170, 360), (140, 338), (115, 312), (97, 285), (85, 260), (78, 235), (77, 205), (85, 170)),
    *((100, 140), (120, 115), (150, 90)),
)
"""Outline of the cup and its saucer in skimage.data.coffee: x, y."""

FACE = (
    *((230, 16), (250, 18), (265, 26), (278, 32), (288, 42), (295, 55), (299, 70), (301, 86), (299, 98), (294, 110)),
    *((287, 120), (280, 128), (274, 135), (268, 137), (266, 136), (264, 148), (259, 158), (252, 166), (242, 174)),
    *((230, 178), (220, 178), (210, 174), (200, 167), (192, 158), (186, 150), (183, 142), (181, 132), (176, 131)),
    *((171, 124), (169, 118), (160, 110), (155, 100), (153, 85), (153, 70), (156, 60), (165, 50), (178, 42)),
    *((189, 36), (192, 28), (205, 20), (218, 17)),
)
"""Outline of the face and hair in skimage.data.astronaut: x, y."""


@functools.cache
def photograph(name: str) -> Image:
    """uint8 [H, W, 3]; the left one of a stereo pair.  ImportError without scikit-image."""
    try:
        import skimage.data
    except ImportError as error:
        raise ImportError("scenes are made of scikit-image's photographs: pip install scikit-image") from error
    pixels: Any = getattr(skimage.data, name)()
    pixels = np.asarray(pixels[0] if isinstance(pixels, tuple) else pixels)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
