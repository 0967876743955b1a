import torch

from cnnkernels import _activation, ops

from .table import ELEMENTWISE, Bad, Case, OpCases, randn

NAMES = [n for n in _activation.CODES if n != "leaky_relu"] + ["leaky_relu(0.1)"]


def away_from_kinks(x: torch.Tensor) -> torch.Tensor:
    """x with the values near a kink of some activation moved aside, where rounding to bf16 could change the side."""
    for kink in (-3.0, 0.0, 3.0, 6.0):
        x = torch.where((x - kink).abs() < 0.05, torch.full_like(x, kink + 0.1), x)
    return x


def _x(*shape: int):
    return lambda: away_from_kinks(randn(*shape) * 4)  # reaches both flat ends of every activation


FORWARD = [Case("activation", name, lambda name=name: (_x(2, 3, 5, 7)(), name)) for name in NAMES] + [
    Case("activation", "large-mish", lambda: (_x(3, 4001)(), "mish"), layouts=("nchw", "sliced", "permuted")),
    Case("activation", "empty", lambda: (randn(0, 3, 4, 4), "mish"), layouts=("nchw", "channels_last")),
    Case("activation", "scalar", lambda: (randn(), "mish"), layouts=("nchw",)),
]
BACKWARD = [
    Case(
        "activation_backward",
        c.id,
        lambda c=c: (randn(*c.args()[0].shape, seed=1), *c.args()),
        data=(0, 1),
        layouts=c.layouts,
    )
    for c in FORWARD
]
X = torch.zeros(2, 3)
TABLE = {
    "activation": OpCases(
        FORWARD,
        [
            Bad(
                "activation",
                "unknown name",
                lambda: (X, "gelu"),
                ValueError,
                "act must be one of identity",
                ops.activation,
            ),
            Bad("activation", "slope", lambda: (X, "leaky_relu(x)"), ValueError, "finite slope", ops.activation),
            Bad("activation", "integers", lambda: (X.long(), "mish"), TypeError, "x must be float32", ops.activation),
            Bad("activation", "complex", lambda: (X.cfloat(), "mish"), TypeError, "x must be float32", ops.activation),
            Bad("activation", "sparse", lambda: (X.to_sparse(), "mish"), TypeError, "must be a dense", ops.activation),
        ],
        ELEMENTWISE,
        ELEMENTWISE,
    ),
    "activation_backward": OpCases(
        BACKWARD,
        [
            Bad(
                "activation_backward", "shape", lambda: (X[:1], X, "mish"), ValueError, "grad must have the shape of x"
            ),
            Bad("activation_backward", "dtype", lambda: (X.half(), X, "mish"), TypeError, "grad must be torch.float32"),
        ],
        ELEMENTWISE,
        {**ELEMENTWISE, torch.float32: (1e-5, 1e-5), torch.float16: (4e-3, 1e-3), torch.bfloat16: (3e-2, 1e-2)},
    ),
}
