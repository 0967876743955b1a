"""Results that wait: tensors to everybody who looks."""

import pytest
import torch
from torch import nn

from cnnkernels.optimize._pending import Pending

from .optimize_oracle import image


def test_pending_is_a_tensor_to_everybody():
    conv = nn.Conv2d(8, 4, 3).requires_grad_(False)
    x = image(8)
    y = conv(x)

    def pending():
        return Pending.of((conv,), x)

    assert torch.equal(pending(), y)
    assert pending().shape == y.shape and pending().dtype is y.dtype and pending().is_contiguous()
    assert torch.equal(pending() + 1, y + 1)
    assert torch.equal(torch.stack([pending(), y]), torch.stack([y, y]))
    assert repr(pending()) == repr(y)
    assert len(pending()) == len(y)
    assert (pending().numpy() == y.numpy()).all()
    p = pending()
    p.add_(1)
    assert torch.equal(p, y + 1)
    with torch.no_grad():
        conv.weight.add_(1)
        late = Pending.of((conv,), x)
        conv.weight.add_(1)
    with pytest.raises(RuntimeError, match="restore"):
        late.sum()
