"""One small computation per op and backend, compared with ``reference``: values and gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cnnkernels import _backend, ops

Sample = tuple[Callable[..., Any], Sequence[Tensor]]


def _randn(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _boxes() -> list[Tensor]:
    corner, size = _randn((50, 2), (50, 2))
    scores = torch.linspace(1, 0, 50)  # apart from each other, so that rounding cannot swap two
    return [torch.cat((20 * corner, 20 * corner + 30 * size.abs() + 1), 1), scores]


def _with_running(function: Callable[..., Tensor], **options: Any) -> Callable[..., Any]:
    """A training op of its tensors and fresh running statistics, which it returns with the result."""

    def call(x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        running = torch.zeros(x.shape[1], device=x.device), torch.ones(x.shape[1], device=x.device)
        return function(x, *tensors, *running, **options), *running

    return call


_C = ((19,), (19,))

SAMPLES: dict[str, Callable[[], Sample]] = {
    "activation": lambda: (lambda x: ops.activation(x, "hard_swish"), _randn((3, 37))),
    "mish": lambda: (ops.mish, _randn((3, 37))),
    "dwconv_bn_act": lambda: (partial(ops.dwconv_bn_act, stride=2), _randn((2, 19, 9, 9), (19, 1, 3, 3), *_C)),
    "dwconv_bn_act_train": lambda: (_with_running(ops.dwconv_bn_act_train), _randn((2, 19, 9, 9), (19, 1, 3, 3), *_C)),
    "bn_act": lambda: (partial(ops.bn_act, act="silu"), _randn((2, 19, 5, 5), *_C)),
    "bn_act_train": lambda: (_with_running(ops.bn_act_train, act="silu"), _randn((2, 19, 5, 5), *_C)),
    "channel_shuffle": lambda: (lambda x: ops.channel_shuffle(x, 3), _randn((2, 12, 5, 5))),
    "concat_shuffle_split": lambda: (ops.concat_shuffle_split, _randn((2, 6, 5, 5), (2, 6, 5, 5))),
    "focus": lambda: (ops.focus, _randn((2, 3, 6, 8))),
    "spp": lambda: (ops.spp, _randn((2, 6, 7, 9))),
    "upsample_add": lambda: (ops.upsample_add, _randn((2, 6, 4, 5), (2, 6, 7, 10))),
    "weighted_fusion": lambda: (
        lambda *t: ops.weighted_fusion(t[:3], t[3], act="silu"),
        [*_randn(*3 * ((2, 6, 5, 5),)), torch.tensor([1.0, -0.5, 0.5])],
    ),
    "pointwise_conv_bn_act": lambda: (
        ops.pointwise_conv_bn_act,
        _randn((2, 16, 5, 5), (24, 16, 1, 1), (24,), (24,)),
    ),
    "squeeze_excite": lambda: (ops.squeeze_excite, _randn((2, 16, 5, 5), (4, 16), (4,), (16, 4), (16,))),
    "box_iou_loss": lambda: (ops.box_iou_loss, list(_boxes()[0].split(25))),
    "nms": lambda: (lambda b, s: ops.nms(b, s, 0.3), _boxes()),
    "nms_padded": lambda: (lambda b, s: ops.nms_padded(b[None], s[None], 0.3, max_out=20), _boxes()),
    "detection_candidates": lambda: (
        lambda p: ops.detection_candidates(p, 0.3, max_candidates=40),
        [torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(0)).sigmoid()],
    ),
    "diou_nms": lambda: (lambda b, s: ops.diou_nms(b, s, 0.3), _boxes()),
    "batched_diou_nms": lambda: (lambda b, s: ops.batched_diou_nms(b, s, (s * 100).long() % 3, 0.3), _boxes()),
}
"""Public function -> a call and the tensors for it.  A test keeps the names equal to ``ops.__all__``."""


def _outputs_and_gradients(name: str, device: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    call, tensors = SAMPLES[name]()
    inputs = [t.to(device, dtype).requires_grad_(_differentiable(name)) for t in tensors]
    result = call(*inputs)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    if not _differentiable(name):
        return outputs
    # Squares, because the plain sum of a batch-normalised tensor has no gradient.
    loss = torch.stack([(o * o).sum() for o in outputs if o.requires_grad]).sum()
    return [*outputs, *torch.autograd.grad(loss, inputs)]


def _differentiable(name: str) -> bool:
    return not name.endswith(("nms", "nms_padded", "candidates"))


@functools.cache
def _expected(name: str) -> list[Tensor]:
    """The definition in plain PyTorch: in float64, except where results are decisions about float32 values."""
    with _backend.use_backend("reference"):
        return _outputs_and_gradients(name, "cpu", torch.float64 if _differentiable(name) else torch.float32)


@dataclass(frozen=True)
class Result:
    """Of one public function on one device."""

    backends: tuple[str, ...]
    """That ran, forward and backward."""
    problem: str | None
    """What is wrong."""
    missing: str | None
    """Why the backend that was asked for could not run all of it."""


def check(name: str, device: str, backend: str = "auto") -> Result:
    """Values and gradients of a small call on a backend, "auto" being the one that serves such calls."""
    with _backend.use_backend(backend), _backend.record_backends() as runs:
        try:
            got = _outputs_and_gradients(name, device)
        except Exception as e:
            return Result((), f"{type(e).__name__}: {e}", None)
    ran = tuple(dict.fromkeys(r.backend for r in runs))
    missing = next((r.reason for r in runs if r.reason is not None), None)
    for a, b in zip(got, _expected(name), strict=True):
        a = a.detach().cpu()
        if a.shape != b.shape or not torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-3):
            found, wanted = a.flatten()[:3].tolist(), b.detach().flatten()[:3].tolist()
            return Result(ran, f"differs from reference: {found} instead of {wanted}", missing)
    return Result(ran, None, missing)
