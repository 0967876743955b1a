"""CmBatchNorm2d against BatchNorm2d over the joined batch."""

import copy
import pickle

import pytest
import torch
from torch import nn

from cnnkernels.nn import CmBatchNorm2d, ConvBNAct

C = 5


def parts(*sizes, dtype=torch.float64, seed=0):
    """Mini-batches of one batch, with means that differ much."""
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, C, h, w, dtype=dtype, generator=g) * (k + 1) + 3 * k for k, (n, h, w) in enumerate(sizes)]


def pair(mini_batches=3, dtype=torch.float64, **kw):
    """CmBN and BN with the same parameters and running statistics."""
    torch.manual_seed(1)
    cross, plain = CmBatchNorm2d(C, mini_batches=mini_batches, dtype=dtype, **kw), nn.BatchNorm2d(C, dtype=dtype, **kw)
    for value in (plain.weight.data, plain.bias.data, plain.running_mean):
        value.normal_()
    plain.running_var.uniform_(0.5, 2)
    cross.load_state_dict(plain.state_dict())
    return cross, plain


def joined(plain, batch):
    """BN over mini-batches whose pictures may differ in size: the same values, as one row of pixels."""
    row = torch.cat([x.transpose(0, 1).reshape(C, -1) for x in batch], dim=1)
    y = plain(row[None, :, :, None])[0, :, :, 0]
    widths = [x[:, 0].numel() for x in batch]
    return [v.reshape(C, len(x), *x.shape[2:]).transpose(0, 1) for v, x in zip(y.split(widths, 1), batch, strict=True)]


@pytest.mark.parametrize("sizes", [[(2, 4, 3)] * 3, [(3, 4, 4), (1, 2, 2), (2, 5, 1)]])
def test_each_mini_batch_as_in_the_batch_so_far(sizes):
    cross, plain = pair()
    batch = parts(*sizes)
    for k, x in enumerate(batch):
        expected = joined(copy.deepcopy(plain), batch[: k + 1])[-1]
        torch.testing.assert_close(cross(x), expected, rtol=1e-10, atol=1e-10)


def test_running_statistics_are_the_joined_batchs_once_per_batch():
    cross, plain = pair()
    before = copy.deepcopy(cross.state_dict())
    batch = parts((2, 4, 3), (1, 2, 2), (3, 3, 3))
    for x in batch[:2]:
        cross(x)
        assert all(torch.equal(value, before[name]) for name, value in cross.state_dict().items())
    cross(batch[2])
    joined(plain, batch)
    for name, expected in plain.state_dict().items():
        torch.testing.assert_close(cross.state_dict()[name], expected, rtol=1e-10, atol=1e-10)
    assert cross.num_batches_tracked == 1 and cross.accumulated is None


def test_batches_are_independent():
    cross, plain = pair(momentum=None)
    for seed in range(3):
        batch = parts((2, 4, 3), (1, 2, 2), (3, 3, 3), seed=seed)
        outputs = [cross(x) for x in batch]
        torch.testing.assert_close(outputs[-1], joined(plain, batch)[-1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(cross.running_var, plain.running_var, rtol=1e-10, atol=1e-10)
    assert cross.num_batches_tracked == 3


def test_start_batch():
    cross, plain = pair(mini_batches=None)
    cross.start_batch()
    assert cross.num_batches_tracked == 0
    for batch in (parts((2, 4, 3), (1, 2, 2)), parts((3, 3, 3), seed=1)):
        for x in batch:
            cross(x)
        cross.start_batch()
        joined(plain, batch)
    torch.testing.assert_close(cross.running_mean, plain.running_mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(cross.running_var, plain.running_var, rtol=1e-10, atol=1e-10)
    assert cross.num_batches_tracked == 2


def test_one_mini_batch_is_batch_norm_with_its_gradients():
    cross, plain = pair(mini_batches=1)
    (x,) = parts((3, 4, 5))
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [module(v) for module, v in zip((cross, plain), inputs, strict=True)]
    for y in outputs:
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    for a, b in [
        outputs,
        [v.grad for v in inputs],
        (cross.weight.grad, plain.weight.grad),
        (cross.bias.grad, plain.bias.grad),
    ]:
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(cross.running_var, plain.running_var, rtol=1e-10, atol=1e-10)


def test_gradient_of_a_later_mini_batch():
    """Through its own share of the statistics; what came before is constant."""
    cross, _ = pair(mini_batches=None)
    first, second = parts((2, 2, 2), (2, 3, 2))
    first.requires_grad_()
    cross(first)
    saved = cross.accumulated

    def second_alone(x, weight, bias):
        cross.accumulated = saved
        return torch.func.functional_call(cross, {"weight": weight, "bias": bias}, x)

    inputs = (second.requires_grad_(), cross.weight.detach().requires_grad_(), cross.bias.detach().requires_grad_())
    assert torch.autograd.gradcheck(second_alone, inputs)
    cross.accumulated = saved
    cross(second).sum().backward()
    assert first.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_and_layout(dtype):
    cross, _ = pair(mini_batches=2, dtype=torch.float32)
    reference, _ = pair(mini_batches=2)
    for x in parts((2, 4, 3), (2, 4, 3), dtype=torch.float32):
        x = x.to(dtype).contiguous(memory_format=torch.channels_last)
        y = cross(x)
        assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(y, reference(x.double()).to(dtype))


def test_evaluation_is_batch_norm():
    cross, plain = pair()
    (x,) = parts((2, 3, 3))
    cross.train()(x)
    assert torch.equal(cross.eval()(x), plain.eval()(x))
    assert cross.accumulated.mini_batches == 1  # the batch goes on afterwards


def test_copies_and_keys():
    cross, plain = pair()
    cross(parts((2, 3, 3))[0])
    assert list(cross.state_dict()) == list(plain.state_dict())
    for other in (copy.deepcopy(cross), pickle.loads(pickle.dumps(cross))):
        x = parts((1, 2, 2), seed=9)[0]
        torch.testing.assert_close(other(x), copy.deepcopy(cross)(x))


def test_convert():
    torch.manual_seed(0)
    model = nn.Sequential(
        ConvBNAct(3, C, 3, act="mish"), nn.Sequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C, eps=1e-3))
    )
    plain = copy.deepcopy(model)
    model(torch.randn(2, 3, 8, 8))
    keys, parameters = list(model.state_dict()), list(model.parameters())
    assert CmBatchNorm2d.convert(model, mini_batches=2) is model
    found = [m for m in model.modules() if isinstance(m, CmBatchNorm2d)]
    assert [(m.eps, m.mini_batches) for m in found] == [(1e-5, 2), (1e-3, 2)]
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    # One layer's statistics do not change another's, so the first layer's output is that of the joined batch.
    x = torch.randn(4, 3, 8, 8)
    model.train()[0](x[:2])
    torch.testing.assert_close(model[0](x[2:]), plain.train()[0](x)[2:], rtol=1e-4, atol=1e-5)
    model.eval()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(x), plain.eval()(x), rtol=1e-4, atol=1e-5)
    frozen = nn.BatchNorm2d(C, affine=False)
    assert CmBatchNorm2d.convert(frozen) is frozen


def test_bad_input():
    with pytest.raises(ValueError, match="mini_batches must be positive"):
        CmBatchNorm2d(C, mini_batches=0)
    with pytest.raises(ValueError, match=r"x must be \[N, 5, H, W\], got \[2, 4, 3, 3\]"):
        CmBatchNorm2d(C)(torch.zeros(2, 4, 3, 3))
    with pytest.raises(ValueError, match="x must be"):
        CmBatchNorm2d(C)(torch.zeros(2, C))
    cross = CmBatchNorm2d(C)
    for x in (torch.zeros(1, C, 1, 1), torch.zeros(0, C, 3, 3)):
        with pytest.raises(ValueError, match="more than one value per channel"):
            cross(x)
        assert cross.accumulated is None
