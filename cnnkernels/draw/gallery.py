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
    "mobilenet_v3_block": Example("Inverted residual with SE (MobileNetV3)", "mobilenet_v3_large", "features.5"),
    "mbconv": Example("MBConv (EfficientNet)", "efficientnet_b0", "features.2.1"),
    "depthwise_separable": Example(
        "Depthwise separable convolution (MobileNet)", "mobilenet_v1", "features.stage2.unit2"
    ),
    "shuffle_unit": Example("Shuffle unit (ShuffleNetV2)", "shufflenet_v2_x1_0", "stage2.1"),
    "shuffle_unit_stride2": Example("Shuffle unit, stride 2 (ShuffleNetV2)", "shufflenet_v2_x1_0", "stage2.0"),
    "shuffle_unit_v1": Example("Shuffle unit (ShuffleNet v1, 3 groups)", "shufflenet_v1_g3", "features.stage1.unit2"),
    "shuffle_unit_v1_stride2": Example(
        "Shuffle unit, stride 2 (ShuffleNet v1)", "shufflenet_v1_g3", "features.stage1.unit1"
    ),
    "ghost_bottleneck": Example("Ghost bottleneck", "ghostnet", "blocks.3.0"),
    "fire": Example("Fire module (SqueezeNet)", "squeezenet1_1", "features.3"),
    "basic_block": Example("Basic block (ResNet)", "resnet18", "layer1.0"),
    "bottleneck": Example("Bottleneck (ResNet)", "resnet50", "layer2.0"),
    "resnext_bottleneck": Example("Bottleneck of ResNeXt", "resnext50_32x4d", "layer1.1"),
    "se_bottleneck": Example("Bottleneck with SE (SE-ResNet)", "seresnet50", "layer1.1"),
    "squeeze_excite": Example("Squeeze-and-excitation", "seresnet50", "layer1.1.se"),
    "cbam_block": Example("Basic block with CBAM (CBAM-ResNet)", "cbam_resnet18", "layer1.1"),
    "eca_block": Example("Basic block with ECA (ECA-ResNet)", "ecaresnet18", "layer1.1"),
    "dense_layer": Example("Dense layer (DenseNet)", "densenet121", "features.denseblock1.denselayer2"),
    "repvgg_block": Example("RepVGG block in training", "repvgg_a0", "stage1.1"),
    "repvgg_block_deploy": Example("RepVGG block deployed", "repvgg_a0", "stage1.1", {"deploy": True}),
    "inception": Example("Inception block (GoogLeNet)", "googlenet", "inception3a"),
    "inception_a": Example("Inception block A (Inception v3)", "inception_v3", "Mixed_5b"),
    "inception_c": Example("Inception block C (Inception v3)", "inception_v3", "Mixed_6b"),
    "inception_e": Example("Inception block E (Inception v3)", "inception_v3", "Mixed_7b"),
    "inception_v4_c": Example("Inception block C (Inception v4)", "inception_v4", "features.19"),
    "inception_resnet_a": Example("Inception-ResNet block A", "inception_resnet_v2", "repeat.0"),
    "xception_block": Example("Block (Xception)", "xception", "block2"),
    "csp": Example("CSP stage (CSPDarknet53)", "cspdarknet53", "stages.1"),
    "darknet_block": Example("Residual block (Darknet53)", "darknet53", "stages.1.blocks.0"),
    "mix_block": Example("Block of MixNet", "mixnet_s", "blocks.2.0"),
    "sandglass": Example("Sandglass block (MobileNeXt)", "mobilenext", "features.4"),
    "hr_module": Example("Multi-resolution module (HRNet)", "hrnet_w18_small_v1", "stage2.0"),
}
"""Names that ``draw`` takes beside those of networks."""
