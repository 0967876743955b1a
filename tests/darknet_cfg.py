"""Darknet's configuration files of the detectors, section by section, as facts for ``tests.darknet_oracle``.

One word per section:

    64x3/2      [convolutional] filters=64 size=3 stride=2 pad=1 batch_normalize=1; the activation is that of the last @word
    out         [convolutional] filters=3 * (5 + classes) size=1, linear, without BatchNorm; out@logistic: with a sigmoid
    max5/1      [maxpool] size=5 stride=1
    up          [upsample] stride=2
    add-3       [shortcut] from=-3, linear
    route-1,-7  [route] layers=-1,-7: negative ones count back from here, others from the first section
    half        [route] layers=-1 groups=2 group_id=1
    yolo0,1,2   [yolo] mask=0,1,2

Sources: github.com/AlexeyAB/darknet and pjreddie/darknet, cfg/*.cfg.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Configuration:
    words: str
    anchors: tuple[int, ...]
    """Width, height, width, height, ... in pixels; masks are positions of pairs."""
    scale_x_y: tuple[float, ...]
    """Of the [yolo] sections, in their order."""
    new_coords: bool = False

    def narrow(self, divisor: int) -> Configuration:
        """With every convolution but the first that much narrower."""
        first, *rest = re.split(r"(?<=x3) ", self.words, maxsplit=1)
        smaller = re.sub(r"\b(\d+)x", lambda m: f"{int(m[1]) // divisor}x", rest[0])
        return Configuration(f"{first} {smaller}", self.anchors, self.scale_x_y, self.new_coords)


SPP = " max5/1 route-2 max9/1 route-4 max13/1 route-1,-3,-5,-6"

# ---- YOLOv3 ----------------------------------------------------------------------------------------------------------------

V3_ANCHORS = (10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326)
TINY_ANCHORS = (10, 14, 23, 27, 37, 58, 81, 82, 135, 169, 344, 319)

DARKNET53 = (
    "@leaky 32x3 64x3/2 32x1 64x3 add-3 128x3/2"
    + 2 * " 64x1 128x3 add-3"
    + " 256x3/2"
    + 8 * " 128x1 256x3 add-3"
    + " 512x3/2"
    + 8 * " 256x1 512x3 add-3"
    + " 1024x3/2"
    + 4 * " 512x1 1024x3 add-3"
)
V3_FINER = (
    " route-4 256x1 up route-1,61 256x1 512x3 256x1 512x3 256x1 512x3 out yolo3,4,5"
    " route-4 128x1 up route-1,36 128x1 256x3 128x1 256x3 128x1 256x3 out yolo0,1,2"
)
YOLOV3 = Configuration(
    DARKNET53 + " 512x1 1024x3 512x1 1024x3 512x1 1024x3 out yolo6,7,8" + V3_FINER, V3_ANCHORS, (1, 1, 1)
)
YOLOV3_SPP = Configuration(
    DARKNET53 + " 512x1 1024x3 512x1" + SPP + " 512x1 1024x3 512x1 1024x3 out yolo6,7,8" + V3_FINER,
    V3_ANCHORS,
    (1, 1, 1),
)
YOLOV3_TINY = Configuration(
    "@leaky 16x3 max2/2 32x3 max2/2 64x3 max2/2 128x3 max2/2 256x3 max2/2 512x3 max2/1 1024x3"
    " 256x1 512x3 out yolo3,4,5 route-4 128x1 up route-1,8 256x3 out yolo0,1,2",
    TINY_ANCHORS,
    (1, 1),
)

# ---- YOLOv4 ----------------------------------------------------------------------------------------------------------------

V4_ANCHORS = (12, 16, 19, 36, 40, 28, 36, 75, 76, 55, 72, 146, 142, 110, 192, 243, 459, 401)


def _cross_stage(width: int, units: int) -> str:
    half = width // 2
    blocks = units * f" {half}x1 {half}x3 add-3"
    return f" {width}x3/2 {half}x1 route-2 {half}x1{blocks} {half}x1 route-1,-{4 + 3 * units} {width}x1"


def _v4_set(width: int) -> str:
    return f" {width}x1 {2 * width}x3 {width}x1 {2 * width}x3 {width}x1"


YOLOV4 = Configuration(
    "@mish 32x3 64x3/2 64x1 route-2 64x1 32x1 64x3 add-3 64x1 route-1,-7 64x1"
    + _cross_stage(128, 2)
    + _cross_stage(256, 8)
    + _cross_stage(512, 8)
    + _cross_stage(1024, 4)
    + " @leaky 512x1 1024x3 512x1"
    + SPP
    + " 512x1 1024x3 512x1 256x1 up route85 256x1 route-1,-3"
    + _v4_set(256)
    + " 128x1 up route54 128x1 route-1,-3"
    + _v4_set(128)
    + " 256x3 out yolo0,1,2 route-4 256x3/2 route-1,-16"
    + _v4_set(256)
    + " 512x3 out yolo3,4,5 route-4 512x3/2 route-1,-37"
    + _v4_set(512)
    + " 1024x3 out yolo6,7,8",
    V4_ANCHORS,
    (1.2, 1.1, 1.05),
)


def _tiny_stage(width: int) -> str:
    half = width // 2
    return f" {width}x3 half {half}x3 {half}x3 route-1,-2 {width}x1 route-6,-1 max2/2"


YOLOV4_TINY = Configuration(
    "@leaky 32x3/2 64x3/2"
    + _tiny_stage(64)
    + _tiny_stage(128)
    + _tiny_stage(256)
    + " 512x3 256x1 512x3 out yolo3,4,5 route-4 128x1 up route-1,23 256x3 out yolo1,2,3",
    TINY_ANCHORS,
    (1.05, 1.05),
)


def _scaled(
    base: int, units: tuple[int, ...], pairs: int, taps: tuple[int, int], joins: tuple[int, int]
) -> Configuration:
    """yolov4-csp and yolov4x-mish.

    base: filters of the first stage.  taps: absolute numbers of the sections that the neck takes from the backbone.
    joins: how far back the sections are that the way down takes from the way up.
    """
    w = 8 * base
    inner, middle, fine = (pairs * f" {c}x1 {c}x3" for c in (w, w // 2, w // 4))
    back = 2 * pairs + 2

    def join(c: int, convolutions: str) -> str:
        return f" {c}x1 {c}x1 route-2{convolutions} route-1,-{back} {c}x1"

    before, after = f" {w}x1 {w}x3 {w}x1", f" {w}x1 {w}x3" + (pairs - 2) * f" {w}x1 {w}x3"
    return Configuration(
        f"@mish 32x3 {base}x3/2 {base // 2}x1 {base}x3 add-3"
        + "".join(_cross_stage(base << (i + 1), n) for i, n in enumerate(units))
        + f" {w}x1 route-2{before}{SPP}{after} route-1,-{9 + 2 * pairs} {w}x1"
        + f" {w // 2}x1 up route{taps[0]} {w // 2}x1 route-1,-3"
        + join(w // 2, middle)
        + f" {w // 4}x1 up route{taps[1]} {w // 4}x1 route-1,-3"
        + join(w // 4, fine)
        + f" {w // 2}x3 out@logistic yolo0,1,2 route-4 {w // 2}x3/2 route-1,-{joins[0]}"
        + join(w // 2, middle)
        + f" {w}x3 out@logistic yolo3,4,5 route-4 {w}x3/2 route-1,-{joins[1]}"
        + join(w, inner)
        + f" {2 * w}x3 out@logistic yolo6,7,8",
        V4_ANCHORS,
        (2, 2, 2),
        new_coords=True,
    )


YOLOV4_CSP = _scaled(64, (2, 8, 8, 4), 2, (79, 48), (20, 49))
YOLOV4X_MISH = _scaled(80, (3, 10, 10, 5), 3, (94, 57), (22, 55))
