"""``SqueezeExcite`` against its children."""

import pytest
import torch

import cnnkernels
from cnnkernels.nn import SqueezeExcite

from .nn_oracle import C, close, image, one_step, ran


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid"])
@pytest.mark.parametrize("bias", [True, False])
def test_squeeze_excite(gate, bias):
    torch.manual_seed(0)
    module = SqueezeExcite(C, 4, act="silu", gate=gate, bias=bias)
    assert [k.partition(".")[0] for k, _ in module.named_parameters()] == ["fc1", "fc1", "fc2", "fc2"][
        :: 1 if bias else 2
    ]

    def plain(x):
        s = module.fc2(module.activation(module.fc1(x.mean((2, 3), keepdim=True))))
        return x * module.scale_activation(s)

    with cnnkernels.record_backends() as runs:
        got = one_step(module, image())
    assert "squeeze_excite" in ran(runs)
    gradients = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    x = image().requires_grad_()
    torch.manual_seed(9)
    y = plain(x)
    (y * torch.randn_like(y)).sum().backward()
    for a, b in zip(got, [y, x.grad, *(p.grad for p in module.parameters())], strict=False):
        close(a, b, 1e-4)
    for a, p in zip(gradients, module.parameters(), strict=True):
        close(a, p.grad, 1e-4)
    seen = []
    module.fc1.register_forward_hook(lambda *args: seen.append(1))
    close(module(image()), plain(image()), 1e-4)
    assert len(seen) == 2
    with pytest.raises(ValueError, match="gate must be sigmoid or hard_sigmoid"):
        SqueezeExcite(8, 2, gate="relu")
