"""timm's names of the mobile networks (conv_stem, bn1, blocks.STAGE.N.*, conv_head, classifier) and of VGG's head."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from cnnkernels.models.efficientnet import EfficientNet
from cnnkernels.models.layout import Layer, Names, register_layout
from cnnkernels.models.mobilenet_v2 import MobileNetV2
from cnnkernels.models.mobilenet_v3 import MobileNetV3
from cnnkernels.models.network import Network
from cnnkernels.models.vgg import VGG
from cnnkernels.nn import SqueezeExcite

# By the number of convolutions of a block; each is followed by bn1, bn2, ...
_CONVOLUTIONS = {1: ("conv",), 2: ("conv_dw", "conv_pw"), 3: ("conv_pw", "conv_dw", "conv_pwl")}
# Blocks per stage where ours are one flat sequence, by their number: MobileNetV2, MobileNetV3 large and small.
_STAGES = {17: (1, 2, 3, 4, 3, 3, 1), 15: (1, 2, 3, 4, 2, 3), 11: (1, 2, 3, 2, 3)}


def _block(ours: str, theirs: str, block: nn.Module) -> Iterator[tuple[str, Layer]]:
    """The layers of one block; ours, theirs: its names."""
    gates = [name for name, m in block.named_modules() if isinstance(m, SqueezeExcite)]
    for gate in gates:
        yield f"{ours}.{gate}.fc1", Layer(f"{theirs}.se.conv_reduce")
        yield f"{ours}.{gate}.fc2", Layer(f"{theirs}.se.conv_expand")
    layers = [(n, m) for n, m in block.named_modules() if not n.startswith(tuple(f"{gate}." for gate in gates))]
    convolutions = [name for name, m in layers if isinstance(m, nn.Conv2d)]
    norms = [name for name, m in layers if isinstance(m, nn.BatchNorm2d)]
    for i, name in enumerate(_CONVOLUTIONS[len(convolutions)]):
        yield f"{ours}.{convolutions[i]}", Layer(f"{theirs}.{name}")
        yield f"{ours}.{norms[i]}", Layer(f"{theirs}.bn{i + 1}")


def _stem(classifier: str) -> dict[str, Layer]:
    return {
        "features.0.0": Layer("conv_stem"),
        "features.0.1": Layer("bn1"),
        classifier: Layer("classifier"),
    }


def _flat(model: MobileNetV2 | MobileNetV3) -> dict[str, Layer]:
    """The blocks of a network whose stages are not modules: features.1 to the last but one."""
    names = _stem(model.last_layer)
    blocks = list(enumerate(model.features.children()))[1:-1]
    places = [(stage, n) for stage, count in enumerate(_STAGES[len(blocks)]) for n in range(count)]
    for (i, block), (stage, n) in zip(blocks, places, strict=True):
        names.update(_block(f"features.{i}", f"blocks.{stage}.{n}", block))
    return names


def _head(features: nn.Module) -> dict[str, Layer]:
    last = len(list(features.children())) - 1
    return {f"features.{last}.0": Layer("conv_head"), f"features.{last}.1": Layer("bn2")}


def mobilenet_v2(model: Network) -> Names:
    assert isinstance(model, MobileNetV2)
    return {**_flat(model), **_head(model.features)}


def mobilenet_v3(model: Network) -> Names:
    """timm has the last 1x1 convolution as a block, and the linear layer behind the pooling as a convolution."""
    assert isinstance(model, MobileNetV3)
    last = len(list(model.features.children())) - 1
    tail = _block(f"features.{last}", f"blocks.{len(_STAGES[last - 1])}.0", model.features[last])
    return {**_flat(model), **dict(tail), "classifier.0": Layer("conv_head", (-1, 1, 1))}


def efficientnet(model: Network) -> Names:
    assert isinstance(model, EfficientNet)
    names = {**_stem(model.last_layer), **_head(model.features)}
    for stage, blocks in list(enumerate(model.features.children()))[1:-1]:
        for n, block in enumerate(blocks.children()):
            names.update(_block(f"features.{stage}.{n}", f"blocks.{stage - 1}.{n}", block))
    return names


def vgg(model: Network) -> Names:
    """timm has the two hidden layers as convolutions, of 7x7 and of 1x1."""
    convolutions = (
        name for name, module in model.named_modules() if name.startswith("features.") and module._parameters
    )
    return {
        **{name: Layer(name) for name in convolutions},
        "classifier.0": Layer("pre_logits.fc1", (-1, 7, 7)),
        "classifier.3": Layer("pre_logits.fc2", (-1, 1, 1)),
        model.last_layer: Layer("head.fc"),
    }


register_layout(MobileNetV2, "timm", mobilenet_v2)
register_layout(MobileNetV3, "timm", mobilenet_v3)
register_layout(EfficientNet, "timm", efficientnet)
register_layout(VGG, "timm", vgg)
