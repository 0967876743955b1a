"""YOLOv4's CBM blocks (convolution, batch norm, Mish) in training: what autograd keeps, and that gradients are the same."""

from __future__ import annotations

import torch
from torch import nn

import cnnkernels
from cnnkernels.nn import CBM


class Eager(nn.Sequential):
    """A CBM from ``torch.nn``."""

    def __init__(self, channels: int) -> None:
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        super().__init__(conv, nn.BatchNorm2d(channels), nn.Mish())


def kept_bytes(model: nn.Module, x: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Bytes of the activations that a forward pass keeps for the backward one, each storage once, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = model(x)
    return sum(s.nbytes() for s in storages.values()), y


def test_a_third_less_memory_with_equal_gradients():
    torch.manual_seed(0)
    eager = nn.Sequential(*(Eager(16) for _ in range(6))).double()
    ours = nn.Sequential(*(CBM(16, 16, 3) for _ in range(6))).double()
    ours.load_state_dict(dict(zip(ours.state_dict(), eager.state_dict().values(), strict=True)))
    x = torch.randn(2, 16, 24, 24, dtype=torch.float64)
    grad = torch.randn_like(x)
    theirs, y = kept_bytes(eager, x)
    y.backward(grad)
    with cnnkernels.record_backends() as runs:
        mine, z = kept_bytes(ours, x)
        z.backward(grad)
    assert {(r.op, r.backend) for r in runs} == {("bn_act_train", "cpu"), ("bn_act_train_backward", "cpu")}
    torch.testing.assert_close(z, y)
    for (name, a), b in zip(ours.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda m, n=name: f"{n}: {m}")
    assert mine <= 0.7 * theirs, f"{mine} of {theirs} bytes"
