"""The shapes that are timed: layers of real networks.

Quick runs take them in fp32 on a CPU; ``CNNKERNELS_BENCH=full`` adds dtypes and torch.compile everywhere.
"""

from __future__ import annotations

from typing import NamedTuple


class Depthwise(NamedTuple):
    """A depthwise layer: square input of ``size``, "same" padding."""

    network: str
    channels: int
    size: int
    stride: int
    kernel: int
    act: str = "relu6"

    def name(self, batch: int) -> str:
        return f"{self.network} {self.channels}ch {self.size}x{self.size} k{self.kernel} s{self.stride} b{batch}"

    @property
    def out(self) -> int:
        return (self.size - 1) // self.stride + 1


DEPTHWISE = [
    Depthwise("mobilenet_v2", 32, 112, 1, 3),
    Depthwise("mobilenet_v2", 96, 112, 2, 3),
    Depthwise("mobilenet_v2", 144, 56, 1, 3),
    Depthwise("mobilenet_v2", 144, 56, 2, 3),
    Depthwise("mobilenet_v2", 192, 28, 1, 3),
    Depthwise("mobilenet_v2", 384, 14, 1, 3),
    Depthwise("mobilenet_v2", 576, 14, 2, 3),
    Depthwise("mobilenet_v2", 960, 7, 1, 3),
    Depthwise("efficientnet_b0", 144, 56, 2, 5, "silu"),
    Depthwise("efficientnet_b0", 240, 28, 1, 5, "silu"),
    Depthwise("efficientnet_b0", 480, 14, 1, 5, "silu"),
    Depthwise("efficientnet_b0", 672, 14, 1, 5, "silu"),
    Depthwise("efficientnet_b0", 1152, 7, 1, 5, "silu"),
    Depthwise("shufflenet_v2", 58, 28, 1, 3, "identity"),
    Depthwise("shufflenet_v2", 116, 14, 1, 3, "identity"),
    Depthwise("convnext_t", 96, 56, 1, 7, "identity"),
    Depthwise("convnext_t", 384, 14, 1, 7, "identity"),
]
COMPILED_WHEN_QUICK = {(32, 112), (144, 56), (384, 14), (960, 7), (240, 28)}  # torch.compile needs seconds per shape

DEPTHWISE_TRAIN = [
    s for s in DEPTHWISE if s.network in ("mobilenet_v2", "efficientnet_b0") and s.channels not in (144, 480)
]


class Pointwise(NamedTuple):
    """A 1x1 layer on a map of ``size``; with ``shortcut`` the block's input is added."""

    network: str
    c_in: int
    c_out: int
    size: int
    act: str = "identity"
    gate: bool = False
    shortcut: bool = False

    def name(self, batch: int) -> str:
        extras = f"{' gate' if self.gate else ''}{' +x' if self.shortcut else ''}"
        return f"{self.network} {self.c_in}-{self.c_out}ch {self.size}x{self.size} {self.act}{extras} b{batch}"


POINTWISE = [
    Pointwise("mobilenet_v2", 32, 16, 112),
    Pointwise("mobilenet_v2", 16, 96, 112, "relu6"),
    Pointwise("mobilenet_v2", 144, 24, 56, shortcut=True),
    Pointwise("mobilenet_v2", 24, 144, 56, "relu6"),
    Pointwise("mobilenet_v2", 192, 32, 28, shortcut=True),
    Pointwise("mobilenet_v2", 32, 192, 28, "relu6"),
    Pointwise("mobilenet_v2", 384, 64, 14, shortcut=True),
    Pointwise("mobilenet_v2", 96, 576, 14, "relu6"),
    Pointwise("mobilenet_v2", 960, 160, 7, shortcut=True),
    Pointwise("mobilenet_v2", 160, 960, 7, "relu6"),
    Pointwise("mobilenet_v2", 320, 1280, 7, "relu6"),
    Pointwise("efficientnet_b0", 24, 144, 56, "silu"),
    Pointwise("efficientnet_b0", 240, 40, 28, gate=True, shortcut=True),
    Pointwise("efficientnet_b0", 112, 672, 14, "silu"),
    Pointwise("efficientnet_b0", 480, 80, 14, gate=True, shortcut=True),
    Pointwise("efficientnet_b0", 1152, 192, 7, gate=True, shortcut=True),
]


class Plane(NamedTuple):
    """A feature map: what element-wise, BN, shuffle and SE ops see."""

    network: str
    channels: int
    size: int
    act: str = "mish"
    extra: int = 0  # groups of a shuffle, hidden width of a squeeze-excite

    def name(self, batch: int) -> str:
        return f"{self.network} {self.channels}ch {self.size}x{self.size} b{batch}"


BN_ACT = [
    Plane("yolov4", 64, 152),
    Plane("yolov4", 128, 76),
    Plane("yolov4", 256, 38),
    Plane("yolov4", 512, 19),
    Plane("yolov3", 128, 76, "leaky_relu(0.1)"),
    Plane("resnet50", 64, 56, "relu"),
    Plane("resnet50", 256, 14, "relu"),
    Plane("yolov5s", 64, 80, "silu"),
]
SHUFFLE = [
    Plane("shufflenet_v2", 116, 28, extra=2),
    Plane("shufflenet_v2", 232, 14, extra=2),
    Plane("shufflenet_v2", 464, 7, extra=2),
    Plane("shufflenet_v1", 240, 28, extra=3),
    Plane("shufflenet_v1", 480, 14, extra=3),
    Plane("shufflenet_v1", 960, 7, extra=3),
]
FOCUS = [Plane("yolov5", 3, 640), Plane("yolox", 3, 416)]
SPP = [Plane("yolov4", 512, 13), Plane("yolov4", 512, 19), Plane("yolov5s", 256, 20)]
FUSION = [  # extra: maps of the node
    Plane("efficientdet_d0", 64, 64, "silu", 2),
    Plane("efficientdet_d0", 64, 32, "silu", 3),
    Plane("efficientdet_d0", 64, 8, "silu", 3),
    Plane("efficientdet_d3", 160, 112, "silu", 2),
    Plane("efficientdet_d3", 160, 56, "silu", 3),
]
UPSAMPLE = [  # size: of the finer map
    Plane("fpn", 256, 56),
    Plane("fpn", 256, 28),
    Plane("fpn", 256, 25),
    Plane("hourglass", 256, 64),
    Plane("hourglass", 256, 8),
]
SQUEEZE_EXCITE = [
    Plane("efficientnet_b0", 32, 112, "silu", 8),
    Plane("efficientnet_b0", 96, 56, "silu", 4),
    Plane("efficientnet_b0", 144, 56, "silu", 6),
    Plane("efficientnet_b0", 240, 28, "silu", 10),
    Plane("efficientnet_b0", 480, 14, "silu", 20),
    Plane("efficientnet_b0", 672, 14, "silu", 28),
    Plane("efficientnet_b0", 1152, 7, "silu", 48),
    Plane("mobilenet_v3", 72, 28, "relu", 24),
    Plane("mobilenet_v3", 120, 28, "relu", 32),
    Plane("mobilenet_v3", 480, 14, "relu", 120),
    Plane("mobilenet_v3", 672, 14, "relu", 168),
    Plane("mobilenet_v3", 960, 7, "relu", 240),
]
ACTIVATION = [Plane("yolov4", c, s) for c, s in ((32, 304), (64, 152), (128, 76), (256, 38), (512, 19))]
BOXES = [(1_000, "spread"), (1_000, "clustered"), (10_000, "spread"), (10_000, "clustered")]
BOX_PAIRS = (100, 1_000, 10_000)


class Pooling(NamedTuple):
    """Maxima over windows of ``kernel`` x ``kernel``."""

    network: str
    channels: int
    size: int
    kernel: int
    stride: int
    padding: int

    def name(self, batch: int) -> str:
        return f"{self.network} {self.channels}ch {self.size}x{self.size} k{self.kernel} s{self.stride} b{batch}"


MAX_POOL = [
    Pooling("resnet50", 64, 112, 3, 2, 1),
    Pooling("shufflenet_v2", 24, 112, 3, 2, 1),
    Pooling("alexnet", 192, 27, 3, 2, 0),
    Pooling("vgg16", 64, 224, 2, 2, 0),
    Pooling("vgg16", 512, 28, 2, 2, 0),
    Pooling("googlenet", 480, 14, 3, 1, 1),
    Pooling("yolov4", 512, 19, 5, 1, 2),
    Pooling("yolov4", 512, 19, 13, 1, 6),
]


class Classifier(NamedTuple):
    """A linear layer behind a network."""

    network: str
    c_in: int
    c_out: int

    def name(self, batch: int) -> str:
        return f"{self.network} {self.c_in}->{self.c_out} b{batch}"


CLASSIFIERS = [
    Classifier("mobilenet_v2", 1280, 1000),
    Classifier("mobilenet_v3_large", 960, 1280),
    Classifier("resnet50", 2048, 1000),
    Classifier("alexnet", 4096, 4096),
    Classifier("vgg16", 25088, 4096),
]
