"""Inception v3: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna 2015, arXiv:1512.00567; torchvision's parameter names.

And with squeeze-and-excitation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from cnnkernels import ops
from cnnkernels.models.inception import AuxiliaryNetwork, Mixed, Path, conv_bn_relu
from cnnkernels.models.layout import Layer, Names, register_layout
from cnnkernels.models.network import Network
from cnnkernels.models.registry import register
from cnnkernels.nn import Linear, MaxPool2d, _unit


def _a(pool: int) -> tuple[Path, ...]:
    """Figure 5 of the paper, with a 5x5 in one branch."""
    return (
        (("branch1x1", 64, 1),),
        (("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
        ("average", ("branch_pool", pool, 1)),
    )


def _c(c: int) -> tuple[Path, ...]:
    """7x7 convolutions in two steps: figure 6."""
    row, column = (1, 7), (7, 1)
    return (
        (("branch1x1", 192, 1),),
        (("branch7x7_1", c, 1), ("branch7x7_2", c, row), ("branch7x7_3", 192, column)),
        (
            ("branch7x7dbl_1", c, 1),
            ("branch7x7dbl_2", c, column),
            ("branch7x7dbl_3", c, row),
            ("branch7x7dbl_4", c, column),
            ("branch7x7dbl_5", 192, row),
        ),
        ("average", ("branch_pool", 192, 1)),
    )


# Half the size: figure 10.
_B: tuple[Path, ...] = (
    (("branch3x3", 384, 3, 2),),
    (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2)),
    ("max",),
)
# Half the size again.
_D: tuple[Path, ...] = (
    (("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)),
    (
        ("branch7x7x3_1", 192, 1),
        ("branch7x7x3_2", 192, (1, 7)),
        ("branch7x7x3_3", 192, (7, 1)),
        ("branch7x7x3_4", 192, 3, 2),
    ),
    ("max",),
)
# Rows and columns beside each other: figure 7.
_E: tuple[Path, ...] = (
    (("branch1x1", 320, 1),),
    (("branch3x3_1", 384, 1), [("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))]),
    (
        ("branch3x3dbl_1", 448, 1),
        ("branch3x3dbl_2", 384, 3),
        [("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))],
    ),
    ("average", ("branch_pool", 192, 1)),
)
_BLOCKS: tuple[tuple[str, tuple[Path, ...]], ...] = (
    ("5b", _a(32)),
    ("5c", _a(64)),
    ("5d", _a(64)),
    ("6a", _B),
    ("6b", _c(128)),
    ("6c", _c(160)),
    ("6d", _c(160)),
    ("6e", _c(192)),
    ("7a", _D),
    ("7b", _E),
    ("7c", _E),
)


class SELayer(nn.Module):
    """``ops.squeeze_excite`` by two linear layers without biases, ReLU and sigmoid: Hu et al. 2017, arXiv:1709.01507.

    x: [N, channels, H, W].  The middle layer has channels // reduction.
    """

    _plain = nn.Sequential, nn.Linear, nn.ReLU, nn.Linear, nn.Sigmoid

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        squeezed = channels // reduction
        self.fc: Any = nn.Sequential(
            nn.Linear(channels, squeezed, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(squeezed, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        if not _unit.ordinary_call(x) or not all(map(_unit.untouched, (self.fc, *self.fc), self._plain)):
            return x * self.fc(x.mean((2, 3)))[:, :, None, None]  # something wants to see its modules called
        first, _, second, _ = self.fc
        return ops.squeeze_excite(x, first.weight, None, second.weight, None, act="relu", gate="sigmoid")


class SqueezedMixed(Mixed):
    """``Mixed`` behind a squeeze-and-excitation of its input."""

    def __init__(self, in_channels: int, *paths: Path) -> None:
        super().__init__(in_channels, *paths)
        self.SELayer = SELayer(in_channels)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.SELayer(x))


class InceptionAux(nn.Module):
    """Logits of the 17x17 map."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv0 = conv_bn_relu(in_channels, 128, 1)
        self.conv1 = conv_bn_relu(128, 768, 5, 1, 0)
        self.fc = Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv1(self.conv0(F.avg_pool2d(x, 5, 3))).mean((2, 3)))


class InceptionOutputs(NamedTuple):
    logits: Tensor
    aux_logits: Tensor


class InceptionV3(AuxiliaryNetwork):
    """Stem of five convolutions, eleven blocks of parallel branches, pooling, dropout, one linear layer.

    Images of at least 75 x 75 pixels, with ``aux_logits`` in training of 299 x 299 or so.
    Arguments and results else as in ``AuxiliaryNetwork``.
    """

    block: ClassVar[type[Mixed]] = Mixed
    last_layer = "fc"
    head = ("dropout", "fc")
    aux_heads = {"AuxLogits": ("Mixed_6e", "fc")}  # noqa: RUF012
    outputs = InceptionOutputs

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        features_only: bool = False,
        drop_rate: float = 0.5,
        aux_logits: bool = False,
        transform_input: bool = False,
        **kw: Any,
    ) -> None:
        super().__init__()
        self.transform_input = transform_input
        self.Conv2d_1a_3x3 = conv_bn_relu(in_chans, 32, 3, 2, 0)
        self.Conv2d_2a_3x3 = conv_bn_relu(32, 32, 3, 1, 0)
        self.Conv2d_2b_3x3 = conv_bn_relu(32, 64, 3)
        self.maxpool1 = MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = conv_bn_relu(64, 80, 1)
        self.Conv2d_4a_3x3 = conv_bn_relu(80, 192, 3, 1, 0)
        self.maxpool2 = MaxPool2d(3, 2)
        shapes = [(32, 2), (32, 2), (64, 2), (64, 4), (80, 4), (192, 4), (192, 8)]
        channels = 192
        for name, paths in _BLOCKS:
            block = self.block(channels, *paths)
            pools = block.paths[-1] == ["max"]  # whose channels are those that came in
            channels = block.channels
            self.add_module(f"Mixed_{name}", block)
            shapes.append((channels, shapes[-1][1] * (2 if pools else 1)))
            if name == "6e" and aux_logits and num_classes:
                self.AuxLogits = InceptionAux(channels, num_classes)
        self.dropout = nn.Dropout(drop_rate)
        self.fc: Any = self.make_last_layer(channels, num_classes)
        self.complete(shapes, features_only=features_only, **kw)

    def initialise(self, name: str, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            std = {"AuxLogits.conv1.conv": 0.01, "AuxLogits.fc": 0.001}.get(name, 0.1)
            nn.init.trunc_normal_(module.weight, 0.0, std, -2.0, 2.0)

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return [m for name, m in self._modules.items() if name not in (*self._head(), *self.aux_heads)]  # type: ignore[misc]


class SEInceptionV3(InceptionV3):
    """Inception v3 with a squeeze-and-excitation before every block; the keys are those of moskomule's senet.pytorch.

    That code has layers for the input of each block and never calls them; here they are called.  Its keys begin with
    "model.": ``create_model("se_inception_v3", pretrained=PATH, layout="moskomule")``.
    """

    block = SqueezedMixed


def _moskomule(model: Network) -> Names:
    return {name: Layer(f"model.{name}") for name, module in model.named_modules() if module._parameters}


register("inception_v3", InceptionV3, input_size=299, top1=78.8)
register("se_inception_v3", SEInceptionV3, input_size=299)
register_layout(SEInceptionV3, "moskomule", _moskomule)
