"""Blocks that have a name of their own: where in which network each is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    title: str
    network: str
    path: str
    config: Mapping[str, Any] = field(default_factory=dict)


BLOCKS: dict[str, Example] = {
    "inverted_residual": Example("Inverted residual (MobileNetV2)", "mobilenet_v2", "features.3"),
    "inverted_residual_stride2": Example("Inverted residual, stride 2 (MobileNetV2)", "mobilenet_v2", "features.2"),
    "mbconv": Example("MBConv (MobileNetV3)", "mobilenet_v3_large", "features.5"),
    "shuffle_unit": Example("Shuffle unit (ShuffleNetV2)", "shufflenet_v2_x1_0", "stage2.1"),
    "shuffle_unit_stride2": Example("Shuffle unit, stride 2 (ShuffleNetV2)", "shufflenet_v2_x1_0", "stage2.0"),
    "basic_block": Example("Basic block (ResNet)", "resnet18", "layer2.0"),
    "bottleneck": Example("Bottleneck (ResNet)", "resnet50", "layer2.0"),
}
"""Names that ``draw`` takes beside those of networks."""
