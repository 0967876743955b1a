"""What people use today: PyTorch modules in eager mode, in both layouts, folded by hand, and compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnkernels

from .arena import DEVICE

ACTS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "leaky_relu(0.1)": lambda: nn.LeakyReLU(0.1, inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
    "mish": lambda: nn.Mish(inplace=True),
    "hard_swish": lambda: nn.Hardswish(inplace=True),
}
# Where a derivative jumps.
CORNERS = {
    "relu": (0.0,),
    "relu6": (0.0, 6.0),
    "leaky_relu(0.1)": (0.0,),
    "hard_swish": (-3.0, 3.0),
    "hard_sigmoid": (-3.0, 3.0),
}
FORMATS = {"channels_last": torch.channels_last, "nchw": torch.contiguous_format}


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """A BatchNorm whose statistics and parameters are not the trivial ones."""
    bn = nn.BatchNorm2d(channels)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        bn.running_mean.copy_(torch.randn(channels, generator=g) * 0.2)
        bn.running_var.copy_(torch.rand(channels, generator=g) + 0.5)
        bn.weight.copy_(torch.rand(channels, generator=g) * 0.6 + 0.7)
        bn.bias.copy_(torch.randn(channels, generator=g) * 0.2)
    return bn


def conv_bn_act(channels: int, kernel: int, stride: int, act: str) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
    return nn.Sequential(conv, batch_norm(channels), ACTS[act]())


def clear_of_corners(grad: Tensor, module: nn.Sequential, x: Tensor, act: str) -> Tensor:
    """``grad`` with zeros where what enters ``act``, the last of ``module``, is next to a jump of its derivative.

    There a rounding decides whether a gradient passes: of 6 million values some lie within the error of eager's batch
    statistics (channels_last, 46,208 values a channel in fp32: 1e-5) of a corner, and contenders differ by all of ``grad``.
    The margin is a hundred times that error, and in half types several roundings of what enters.
    """
    if act not in CORNERS:
        return grad
    with torch.no_grad():
        value = copy.deepcopy(module[:-1]).double()(x.double())
    margin = 1e-3 + (8 * torch.finfo(x.dtype).eps if x.dtype != torch.float32 else 0)
    for corner in CORNERS[act]:
        grad = grad.masked_fill((value - corner).abs() < margin * max(1.0, abs(corner)), 0)
    return grad


class SqueezeExcitation(nn.Module):
    """The module as it is usually written."""

    def __init__(self, channels: int, hidden: int, act: str) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.act = ACTS[act]()

    def forward(self, x: Tensor) -> Tensor:
        s = self.act(self.fc1(F.adaptive_avg_pool2d(x, 1)))
        return torch.sigmoid(self.fc2(s)) * x


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """The usual view, transpose, reshape."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def fold(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift of a BatchNorm in eval mode, fp32."""
    scale = bn.weight.float() / torch.sqrt(bn.running_var.float() + bn.eps)
    return scale.detach(), (bn.bias.float() - bn.running_mean.float() * scale).detach()


def on_backend(backend: str, call: Callable[[], object]) -> Callable[[], object]:
    """``call`` with every op on one backend, checked once.  The device's default is not asked for by name: users do not."""
    default = "cpu" if DEVICE == "cpu" else "cuda"

    def switched() -> object:
        with cnnkernels.use_backend(backend):
            return call()

    run = call if backend == default else switched
    with cnnkernels.record_backends() as runs:
        run()
    assert runs and all(r.backend == backend for r in runs), runs
    return run


def no_grad(call: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return call()

    return run


def eager_calls(module: Callable[..., object], x: Tensor) -> dict[str, Callable[[], object]]:
    """The module in both layouts, each with weights and input already in that layout."""
    calls = {}
    for layout, fmt in FORMATS.items():
        m = copy.deepcopy(module)
        if isinstance(m, nn.Module):
            m = m.to(memory_format=fmt)
        y = x.contiguous(memory_format=fmt)
        calls[f"eager {layout}"] = no_grad(lambda m=m, y=y: m(y))
    return calls


def compiled(function: Callable[..., object], *args: Tensor) -> Callable[[], object]:
    torch._dynamo.reset()
    f = torch.compile(function)
    return no_grad(lambda: f(*args))
