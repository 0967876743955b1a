"""DropBlock2d against torchvision's, against squares drawn by loops, and by its statistics."""

import pytest
import torch

from cnnkernels.nn import DropBlock2d, linear_drop_prob

from . import oracles


@pytest.mark.parametrize(
    ("p", "block", "shape"), [(0.1, 7, (3, 4, 20, 23)), (0.4, 3, (2, 3, 9, 9)), (0.2, 5, (8, 8, 3, 8))]
)
def test_torchvisions(p, block, shape):
    tv = oracles.package("torchvision")
    x = torch.randn(shape)
    for seed in range(3):
        torch.manual_seed(seed)
        ours = DropBlock2d(p, block)(x)
        torch.manual_seed(seed)
        theirs = tv.ops.drop_block2d(x, p, block)
        assert (ours == 0).any()
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("block", [1, 2, 3, 4, 6])
def test_squares(block):
    """What is dropped is a union of whole squares, drawn with the paper's gamma."""
    height, width = 10, 12
    torch.manual_seed(block)
    y = DropBlock2d(0.15, block)(torch.ones(50, 4, height, width))
    kept = y > 0
    dropped = ~kept
    whole = torch.zeros_like(dropped)
    for i in range(height - block + 1):
        for j in range(width - block + 1):
            square = dropped[:, :, i : i + block, j : j + block].all(-1).all(-1)
            whole[:, :, i : i + block, j : j + block] |= square[:, :, None, None]
    assert torch.equal(whole, dropped) and dropped.any()
    torch.testing.assert_close(y.sum(), torch.tensor(float(y.numel())))  # scaled by numel / kept
    assert y[kept].unique().numel() == 1


@pytest.mark.parametrize(("p", "block"), [(0.05, 5), (0.2, 7), (0.1, 4)])
def test_share_that_is_dropped(p, block):
    """A pixel well inside is dropped unless none of its block^2 corners is drawn."""
    size = 24
    torch.manual_seed(0)
    y = DropBlock2d(p, block)(torch.ones(400, 8, size, size))
    gamma = p * size**2 / (block**2 * (size - block + 1) ** 2)
    expected = 1 - (1 - gamma) ** (block**2)
    inner = (y[:, :, block:-block, block:-block] == 0).float().mean().item()
    assert abs(inner - expected) < 0.005
    assert abs((y == 0).float().mean().item() - p) < 0.02 + p * p  # the paper's gamma leaves overlaps out


def test_identity():
    x = torch.randn(2, 3, 8, 8)
    assert DropBlock2d(0.5).eval()(x) is x
    assert DropBlock2d(0.0)(x) is x
    assert DropBlock2d(0.5)(x[:0]).shape == (0, 3, 8, 8)


def test_everything_dropped_is_zero_not_nan():
    y = DropBlock2d(1.0, 8)(torch.randn(2, 3, 4, 4))
    assert torch.equal(y, torch.zeros_like(y))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_layout_and_gradient(dtype):
    x = torch.randn(4, 6, 16, 16, dtype=torch.float64).to(dtype).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    y = DropBlock2d(0.2, 3)(x)
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    y.sum().backward()
    factor = x.grad.unique()
    assert len(factor) == 2 and factor[0] == 0 and factor[1] > 1
    assert torch.equal(x.grad == 0, y == 0)


def test_schedule():
    assert [linear_drop_prob(s, 10, 0.2) for s in (0, 5, 10, 99)] == [0.0, 0.1, 0.2, 0.2]
    with pytest.raises(ValueError, match="steps must be positive"):
        linear_drop_prob(0, 0)


def test_bad_input():
    with pytest.raises(ValueError, match="drop_prob must be from 0 to 1"):
        DropBlock2d(1.5)
    with pytest.raises(ValueError, match="block_size must be positive"):
        DropBlock2d(0.1, 0)
    with pytest.raises(ValueError, match=r"x must be \[N, C, H, W\]"):
        DropBlock2d(0.1)(torch.zeros(3, 4, 4))
