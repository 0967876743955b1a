from dataclasses import dataclass
from typing import Any

import torch

from cnnkernels import _activation, _conv, ops

from .table import LAYOUTS, Bad, Case, OpCases, rand, randn, steps

KINKED = ("relu", "relu6", "leaky_relu(0.1)", "hard_swish", "hard_sigmoid")


@dataclass(frozen=True)
class Shape:
    """One geometry: x's shape and the convolution's arguments as torch.ops takes them."""

    id: str
    x: tuple[int, int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, ...] | None = None
    dilation: tuple[int, int] = (1, 1)
    act: str = "relu6"
    residual: bool = False
    layouts: tuple[str, ...] = ("nchw", "channels_last")

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        draw = steps if self.act in KINKED else randn
        return draw(*self.x), draw(self.x[1], 1, *self.kernel, seed=1) * (
            0.5 if self.act in KINKED else self.kernel[0] ** -0.5
        )

    def output_shape(self) -> tuple[int, ...]:
        x, weight = torch.empty(self.x), torch.empty(self.x[1], 1, *self.kernel)
        return tuple(_conv.output_shape(x, _conv.resolve("case", x, weight, self.stride, self.padding, self.dilation)))


SHAPES = [
    Shape("k3s1", (2, 19, 7, 9), (3, 3), residual=True, layouts=LAYOUTS),
    Shape("k3s2", (2, 17, 9, 8), (3, 3), (2, 2), layouts=LAYOUTS),
    Shape("k3s2-even", (1, 8, 8, 10), (3, 3), (2, 2), act="silu"),
    Shape("k5s1", (2, 7, 6, 11), (5, 5), act="silu"),
    Shape("k5s2", (1, 16, 11, 9), (5, 5), (2, 2), act="hard_swish", residual=True),
    Shape("k7s1", (1, 9, 9, 8), (7, 7), act="identity"),
    Shape("k7s2", (1, 5, 13, 12), (7, 7), (2, 2), act="mish"),
    Shape("k3-wide", (1, 33, 3, 37), (3, 3), act="relu"),
    Shape("k3-7x7", (3, 48, 7, 7), (3, 3)),
    Shape("k1", (2, 6, 4, 5), (1, 1), act="leaky_relu(0.1)"),
    Shape("k2x4", (1, 5, 6, 7), (2, 4), padding=(1, 2, 0, 1), act="silu"),
    Shape("k9", (1, 3, 10, 12), (9, 9), act="silu"),
    Shape("k1x5", (1, 18, 5, 9), (1, 5), (1, 2), act="relu6"),
    Shape("dilated", (2, 6, 9, 10), (3, 3), dilation=(2, 2), act="relu6", residual=True),
    Shape("dilated-strided", (1, 17, 11, 12), (3, 3), (2, 1), (1, 3), (2, 3), act="mish"),
    Shape("stride-over-kernel", (1, 4, 11, 12), (2, 2), (3, 4), (0,), act="relu"),
    Shape("one-sided-padding", (1, 10, 6, 7), (3, 3), (2, 2), (0, 1, 0, 1), act="relu6"),
    Shape("padding-over-kernel", (1, 3, 3, 4), (3, 3), padding=(4, 5, 6, 3), act="silu"),
    Shape("kernel-over-input", (2, 5, 2, 3), (7, 7), act="silu"),
    Shape("no-padding", (2, 20, 6, 6), (3, 3), padding=(0, 0), act="silu"),
    Shape("1x1-output", (2, 12, 3, 3), (3, 3), padding=(0,), act="silu"),
    Shape("1x1-input", (3, 21, 1, 1), (3, 3), act="silu", layouts=LAYOUTS),
    Shape("one-channel", (2, 1, 5, 6), (3, 3), act="silu"),
    Shape("empty", (0, 6, 5, 5), (3, 3)),
] + [
    Shape(name, (2, 3, 5, 6), (3, 3), act=name)
    for name in (*(n for n in _activation.CODES if n != "leaky_relu"), "leaky_relu(0.1)")
]


def _forward(s: Shape) -> tuple[Any, ...]:
    x, weight = s.tensors()
    c = s.x[1]
    if s.act in KINKED:  # scale and shift leave every value an odd multiple of 1/16 away from the kinks
        scale, shift = steps(c, seed=2, low=1, high=2, step=0.5), steps(c, seed=3) + 0.0625
    else:
        scale, shift = rand(c, seed=2, low=0.5, high=1.5), randn(c, seed=3)
    residual = randn(*s.output_shape(), seed=4) if s.residual else None
    return (
        x,
        weight,
        scale,
        shift,
        list(s.stride),
        None if s.padding is None else list(s.padding),
        list(s.dilation),
        s.act,
        residual,
    )


FORWARD = [
    Case("dwconv_bn_act", s.id, lambda s=s: _forward(s), data=(0, 8), follow=(1,), layouts=s.layouts) for s in SHAPES
]
BACKWARD = [
    Case(
        "dwconv_bn_act_backward",
        s.id,
        lambda s=s: (randn(*s.output_shape(), seed=5), *_forward(s)[:8]),
        data=(0, 1),
        follow=(2,),
        layouts=s.layouts,
    )
    for s in SHAPES
]

X, W, C = torch.zeros(2, 4, 5, 6), torch.zeros(4, 1, 3, 3), torch.zeros(4)
ARGUMENTS = (X, W, C, C, [1], None, [1], "relu6", None)


def _bad(ident: str, error: type[Exception], match: str, **changed: Any) -> Bad:
    names = ("x", "weight", "scale", "shift", "stride", "padding", "dilation", "act", "residual")
    args = tuple(changed.get(n, a) for n, a in zip(names, ARGUMENTS, strict=True))

    def public(*values: Any) -> Any:
        return ops.dwconv_bn_act(*values[:4], **dict(zip(names[4:], values[4:], strict=True)))

    return Bad("dwconv_bn_act", ident, lambda: args, error, match, public)


BAD = [
    _bad("three dimensions", ValueError, "x must have 4 dimensions", x=X[0]),
    _bad("integers", TypeError, "x must be float32", x=X.long()),
    _bad("sparse", TypeError, "must be a dense", x=X.to_sparse()),
    _bad("no channels", ValueError, "at least one channel", x=X[:, :0], weight=W[:0], scale=C[:0], shift=C[:0]),
    _bad("no rows", ValueError, "at least one channel, row and column", x=X[:, :, :0]),
    _bad(
        "weight's channels",
        ValueError,
        r"weight must be \[C, 1, kH, kW\] with C=4 .*, got \[3, 1, 3, 3\]",
        weight=W[:3],
    ),
    _bad("dense weight", ValueError, "weight must be", weight=W.expand(4, 4, 3, 3)),
    _bad("empty kernel", ValueError, "weight must be", weight=W[:, :, :0]),
    _bad("weight's dtype", TypeError, "weight must be torch.float32", weight=W.half()),
    _bad("scale's shape", ValueError, r"scale must be \[C\] with C=4", scale=C[:3]),
    _bad("shift's dtype", TypeError, "shift must be torch.float32", shift=C.half()),
    _bad("stride 0", ValueError, "stride must be at least 1", stride=[0]),
    _bad("three strides", ValueError, "stride must be an int or a pair", stride=[1, 1, 1]),
    _bad("huge stride", ValueError, "stride must be at least 1 and below", stride=[2**62]),
    _bad("dilation 0", ValueError, "dilation must be at least 1", dilation=[1, 0]),
    _bad("no dilation", ValueError, "dilation must be an int or a pair", dilation=[]),
    _bad("negative padding", ValueError, "padding must be at least 0", padding=[-1]),
    _bad("three paddings", ValueError, "padding must be an int, a pair or", padding=[1, 1, 1]),
    _bad("padding near 2**63", ValueError, "padding must be at least 0 and below", padding=[2**63 - 1]),
    _bad("output of 2**63 bytes", ValueError, "fewer than 2", padding=[2**31 - 1]),
    _bad(
        "kernel too large",
        ValueError,
        r"must fit into the padded input \[5, 6\]",
        weight=W.new_zeros(4, 1, 7, 3),
        padding=[0],
    ),
    _bad("even kernel", ValueError, "padding=None needs an odd kernel", weight=W[:, :, :2]),
    _bad("dilated too far", ValueError, "must fit into the padded input", dilation=[4], padding=[0]),
    _bad("activation", ValueError, "act must be one of", act="gelu"),
    _bad("residual's shape", ValueError, "residual must have the output's shape", residual=X, stride=[2]),
    _bad("residual's dtype", TypeError, "residual must be torch.float32", residual=X.half()),
]
BAD_BACKWARD = [
    Bad(
        "dwconv_bn_act_backward",
        "grad",
        lambda: (X[:1], *ARGUMENTS[:8]),
        ValueError,
        "grad must have the output's shape",
    ),
    Bad("dwconv_bn_act_backward", "dtype", lambda: (X.half(), *ARGUMENTS[:8]), TypeError, "grad must be torch.float32"),
]

# One rounding to the output type; sums of up to 81 products in fp32.
TOLERANCE = {
    torch.float64: (1e-12, 1e-11),
    torch.float32: (1e-5, 1e-5),
    torch.float16: (1e-3, 2e-4),
    torch.bfloat16: (8e-3, 2e-4),
}
# The kernels keep u and du in x's dtype: sums over up to a few hundred outputs of values that carry one rounding each.
GRADIENT = {
    torch.float64: (1e-10, 1e-10),
    torch.float32: (1e-4, 1e-4),
    torch.float16: (4e-3, 2e-2),
    torch.bfloat16: (3e-2, 1.6e-1),
}
TABLE = {
    "dwconv_bn_act": OpCases(FORWARD, BAD, TOLERANCE, GRADIENT),
    "dwconv_bn_act_backward": OpCases(BACKWARD, BAD_BACKWARD, GRADIENT, GRADIENT),
}
