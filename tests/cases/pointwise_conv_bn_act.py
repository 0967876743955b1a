from dataclasses import dataclass

import torch

from cnnkernels import ops

from .activation import NAMES
from .table import LAYOUTS, Bad, Case, OpCases, rand, randn, steps

KINKED = ("relu", "relu6", "leaky_relu(0.1)", "hard_swish", "hard_sigmoid")


@dataclass(frozen=True)
class Shape:
    """One call: sizes of x, output channels, and what stands around the convolution."""

    id: str
    x: tuple[int, int, int, int]
    k: int
    act: str = "silu"
    gate: bool = False
    residual: bool = False
    layouts: tuple[str, ...] = ("nchw", "channels_last")
    slow: bool = False

    def args(self):
        draw = steps if self.act in KINKED else randn  # sums of steps are exact: no rounding moves one over a kink
        n, c, h, w = self.x
        exact = self.act in KINKED
        gate = None if not self.gate else steps(n, c, seed=5, low=0, high=2, step=0.5) if exact else rand(n, c, seed=5)
        return (
            draw(*self.x),
            draw(self.k, c, 1, 1, seed=1) * (0.5 if exact else c**-0.5),
            steps(self.k, seed=2, low=1, high=3, step=0.5) if exact else rand(self.k, seed=2, low=-2.0, high=2.0),
            steps(self.k, seed=3) + 0.0625 if exact else randn(self.k, seed=3),
            self.act,
            gate,
            randn(n, self.k, h, w, seed=4) if self.residual else None,
        )


SHAPES = [
    # The first three are what compute-sanitizer sees (tests/gpu_small_cases.py): elements, vectors, vectors with a gate.
    Shape("odd", (2, 19, 5, 7), 13, gate=True, residual=True, layouts=LAYOUTS),
    Shape("vectors", (1, 16, 4, 4), 32, "relu"),
    Shape("vectors-gated", (2, 32, 2, 8), 24, gate=True, residual=True),
    *(Shape(a, (2, 5, 3, 4), 7, a, gate=i % 2 == 0, residual=i % 3 == 0) for i, a in enumerate(NAMES)),
    Shape("odd-relu6", (2, 19, 5, 7), 13, "relu6", residual=True, layouts=LAYOUTS),
    Shape("panels", (1, 24, 7, 7), 100, "relu6", gate=True, slow=True),  # balanced panels of 2, 2, 2 and 1 vectors
    Shape("wide", (3, 9, 1, 5), 80, "identity", residual=True),
    Shape("deep", (2, 70, 3, 3), 24, "mish", gate=True),
    Shape("chunks", (2, 3, 43, 45), 17, "identity", gate=True, slow=True),  # a thread walks through several chunks
    Shape("tiles", (3, 150, 6, 8), 72, gate=True, residual=True),  # chunks of channels, tiles of outputs and pixels
    Shape("tiles-aligned", (2, 136, 8, 8), 72, "relu6", residual=True),
    Shape("tiles-gated", (2, 72, 4, 8), 24, "hard_swish", gate=True),
    Shape("one-pixel", (5, 12, 1, 1), 9, gate=True),
    Shape("one-channel", (2, 1, 4, 5), 1, residual=True),
    Shape("one-input", (2, 1, 4, 5), 6),
    Shape("one-output", (2, 6, 4, 5), 1),
    Shape("empty", (0, 3, 4, 4), 5, gate=True, residual=True),
]
CASES = [
    Case("pointwise_conv_bn_act", s.id, s.args, data=(0, 5, 6), follow=(1,), layouts=s.layouts, slow=s.slow)
    for s in SHAPES
]

# Sums of up to 150 products of order 1 in fp32; one rounding of the result for the half types.
TOLERANCE = {
    torch.float64: (1e-12, 1e-12),
    torch.float32: (5e-6, 5e-6),
    torch.float16: (1e-3, 1e-4),
    torch.bfloat16: (8e-3, 1e-4),
}
# Gradients of scale, shift and weight are sums over up to 3870 pixels.
GRADIENTS = {
    torch.float64: (1e-10, 1e-10),
    torch.float32: (3e-5, 1e-4),
    torch.float16: (4e-3, 4e-3),
    torch.bfloat16: (3e-2, 3e-2),
}

X, W, V = torch.zeros(2, 3, 4, 4), torch.zeros(5, 3, 1, 1), torch.ones(5)
G, R = torch.ones(2, 3), torch.zeros(2, 5, 4, 4)


def _public(x, weight, scale, shift, act, gate, residual):
    return ops.pointwise_conv_bn_act(x, weight, scale, shift, act=act, gate=gate, residual=residual)


def _bad(id, error, match, **changes):
    args = dict(x=X, weight=W, scale=V, shift=V, act="relu", gate=G, residual=R) | changes
    return Bad("pointwise_conv_bn_act", id, lambda: tuple(args.values()), error, match, _public)


BAD = [
    _bad("3-d", ValueError, "x must have 4 dimensions", x=X[0]),
    _bad("no pixels", ValueError, "x must have channels and pixels", x=X[:, :, :0], residual=R[:, :, :0]),
    _bad("integers", TypeError, "x must be float32", x=X.long()),
    _bad("weight", ValueError, r"weight must be \[K, C, 1, 1\] with C=3, got \[5, 2, 1, 1\]", weight=W[:, :2]),
    _bad("3x3", ValueError, r"weight must be \[K, C, 1, 1\]", weight=torch.zeros(5, 3, 3, 3)),
    _bad("2-d weight", ValueError, r"weight must be \[K, C, 1, 1\]", weight=W[:, :, 0, 0]),
    _bad("no outputs", ValueError, r"weight must be \[K, C, 1, 1\]", weight=W[:0]),
    _bad("weight dtype", TypeError, "weight must be torch.float32", weight=W.half()),
    _bad("scale", ValueError, r"scale must be \[K\] with K=5", scale=V[:3]),
    _bad("shift", ValueError, r"shift must be \[K\] with K=5", shift=V[:1]),
    _bad("shift dtype", TypeError, "shift must be torch.float32", shift=V.double()),
    _bad("act", ValueError, "act must be one of", act="gelu"),
    _bad("gate", ValueError, r"gate must be \[N, C\] with N=2, C=3, got \[2, 5\]", gate=torch.ones(2, 5)),
    _bad("gate rank", ValueError, r"gate must be \[N, C\]", gate=G[:, :, None, None]),
    _bad("gate dtype", TypeError, "gate must be torch.float32", gate=G.bfloat16()),
    _bad("residual", ValueError, r"residual must have the output's shape \[2, 5, 4, 4\]", residual=X),
    _bad("residual dtype", TypeError, "residual must be torch.float32", residual=R.half()),
]

TABLE = {"pointwise_conv_bn_act": OpCases(CASES, BAD, TOLERANCE, GRADIENTS)}
