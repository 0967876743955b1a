"""``DWConvBNAct`` and ``ConvBNAct`` against their children: values, gradients, options, copies, ``fuse``."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import cnnkernels
from cnnkernels.nn import ConvBNAct, DWConvBNAct
from cnnkernels.nn.sequential import plus

from .nn_oracle import ACTS, OPS, C, close, image, kinds, one_step, ran, randomise, unfused, unit


@kinds
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("act", ACTS)
def test_step_equals_the_children(kind, training, act):
    module = unit(kind, act=act, stride=2).train(training)
    expected = unfused(module)
    with cnnkernels.record_backends() as runs:
        got = one_step(module, image())
    assert ran(runs) & OPS[kind]
    assert all("train" in op for op in ran(runs)) == training
    for a, b in zip(got, one_step(expected, image()), strict=True):
        close(a, b, 1e-4)


@kinds
@pytest.mark.parametrize("channels_last", [False, True])
def test_folded_equals_the_children_and_keeps_the_layout(kind, channels_last):
    module = unit(kind).eval()
    x = image(channels_last=channels_last)
    with torch.no_grad():
        y = module(x)
        close(y, unfused(module)(x))
        close(module(x), y, 0)
    assert y.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@kinds
@pytest.mark.parametrize(
    "options",
    [
        {"bias": True},
        {"momentum": None},
        {"momentum": 0.3, "eps": 1e-2},
        {"dilation": 2},
        {"padding": "same"},
        {"padding": "valid"},
        {"kernel_size": 5, "padding": (1, 2)},
        {"kernel_size": 2, "padding": "same"},
    ],
    ids=str,
)
@pytest.mark.parametrize("training", [True, False])
def test_options_of_the_children(kind, options, training):
    options = {k: v for k, v in options.items() if not (kind == "dense" and k == "kernel_size")}
    module = unit(kind, **options).train(training)
    expected = unfused(module)
    for _ in range(2):  # momentum=None averages over calls
        for a, b in zip(one_step(module, image()), one_step(expected, image()), strict=True):
            close(a, b, 1e-4)
    with torch.no_grad():
        close(module.eval()(image()), expected.eval()(image()), 1e-4)


@kinds
@pytest.mark.parametrize("bn", [{"affine": False}, {"track_running_stats": False}], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_without_parameters_or_statistics(kind, bn, training):
    conv = nn.Conv2d(C, C, 3, padding=1, groups=C if kind == "depthwise" else 1, bias=False)
    cls = DWConvBNAct if kind == "depthwise" else ConvBNAct
    module = randomise(cls.from_modules(conv, nn.BatchNorm2d(C, **bn), nn.ReLU())).train(training)
    expected = unfused(module)
    for a, b in zip(one_step(module, image()), one_step(expected, image()), strict=True):
        close(a, b, 1e-4)


@kinds
@pytest.mark.parametrize("training", [True, False])
def test_empty_batch(kind, training):
    module = unit(kind).train(training)
    expected = unfused(module)
    for a, b in zip(one_step(module, image(n=0)), one_step(expected, image(n=0)), strict=True):
        close(a, b, 0)


def test_image_without_a_batch():
    """Conv2d takes [C, H, W], BatchNorm2d does not: what the children say, the module says."""
    module, x = unit("depthwise").eval(), image()[0]
    with torch.no_grad():
        close(DWConvBNAct.from_modules(module.conv, act=module.act)(x), module.act(module.conv(x)), 0)
        with pytest.raises(ValueError, match="expected 4D input"):
            module(x)


@kinds
def test_half_precision_module(kind):
    module = unit(kind).eval()
    expected = unfused(module)
    with torch.no_grad():
        y = module.to(torch.bfloat16)(image().bfloat16())
        assert y.dtype is torch.bfloat16
        close(y.float(), expected(image()), 6e-2)


@kinds
def test_double_module(kind):
    module = unit(kind).double().eval()
    with torch.no_grad():
        close(module(image().double()), unfused(module)(image().double()), 1e-12)


@kinds
@pytest.mark.parametrize("training", [True, False])
def test_autocast(kind, training):
    module = unit(kind).train(training)
    expected = unfused(module)
    with torch.autocast("cpu", torch.bfloat16):
        got = one_step(module, image())
    assert got[0].dtype is torch.bfloat16
    assert all(p.grad.dtype is torch.float32 for p in module.parameters())
    close(got[0].float(), expected(image()), 0.1)


@pytest.mark.parametrize("backend", ["reference", "triton"])
@kinds
def test_use_backend_reaches_the_modules(kind, backend):
    if backend == "triton":
        pytest.importorskip("triton")
    module = unit(kind).eval()
    with torch.no_grad(), cnnkernels.use_backend(backend), cnnkernels.record_backends() as runs:
        close(module(image()), unfused(module)(image()))
    op = "dwconv_bn_act" if kind == "depthwise" else "bn_act"
    # "reference" of a module is its children, called one after the other.
    assert {(r.op, r.backend) for r in runs} == ({(op, backend)} if backend != "reference" else set())


def test_bad_input_changes_nothing():
    module = unit("depthwise")
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match="dwconv_bn_act_train: "):
        module(image(c=C + 1))
    with pytest.raises(ValueError, match="dwconv_bn_act_train: "):
        module(image(n=1, size=1))  # one value per channel
    for k, v in module.state_dict().items():
        assert torch.equal(v, before[k]), k


@kinds
def test_copies_and_checkpoints(kind):
    module = unit(kind).eval()
    with torch.no_grad():
        y = module(image())
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert not other._folds
            close(other(image()), y, 0)
            nn.init.zeros_(other.conv.weight)
            close(module(image()), y, 0)
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        fresh = unit(kind)
        nn.init.zeros_(fresh.conv.weight)
        fresh.load_state_dict(torch.load(file, weights_only=True))
        close(fresh.eval()(image()), y, 0)
    keys = ["conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"]
    assert list(module.state_dict()) == keys


def test_from_modules_shares():
    conv, bn, act = nn.Conv2d(C, C, 3, groups=C), nn.BatchNorm2d(C), nn.SiLU()
    module = DWConvBNAct.from_modules(conv, bn, act)
    assert module.conv is conv
    assert module.bn is bn
    assert module.act is act
    with torch.no_grad():
        close(module.eval()(image()), act(bn(conv(image()))))
        close(DWConvBNAct.from_modules(conv)(image()), conv(image()))
        close(DWConvBNAct.from_modules(conv, act=act)(image()), act(conv(image())))


def test_from_modules_refuses():
    with pytest.raises(ValueError, match="groups == in_channels == out_channels, got groups=1"):
        DWConvBNAct.from_modules(nn.Conv2d(C, C, 3), nn.BatchNorm2d(C))
    with pytest.raises(TypeError, match=r"conv must be a torch\.nn\.Conv2d, got Linear"):
        ConvBNAct.from_modules(nn.Linear(3, 3))
    with pytest.raises(TypeError, match=r"act must be a torch\.nn\.Module or None, got str"):
        ConvBNAct.from_modules(nn.Conv2d(C, C, 3), nn.BatchNorm2d(C), "relu")
    with pytest.raises(ValueError, match="bn must have the 12 channels that conv returns, got num_features=8"):
        ConvBNAct.from_modules(nn.Conv2d(3, C, 3), nn.BatchNorm2d(8))
    with pytest.raises(ValueError, match="kernel_size must be odd where no padding is given, got 2"):
        DWConvBNAct(C, kernel_size=2)


@kinds
@pytest.mark.parametrize("bias", [False, True])
def test_fuse_and_unfuse(kind, bias):
    module = unit(kind, bias=bias, act="silu").eval()
    deployed = module.fuse()
    assert isinstance(deployed, type(module))
    assert list(deployed.state_dict()) == ["conv.weight", "conv.bias"]
    with torch.no_grad():
        close(deployed(image()), module(image()))
        close(pickle.loads(pickle.dumps(deployed))(image()), module(image()))
        close(nn.Sequential(deployed.conv, deployed.act)(image()), module(image()))
    assert deployed.unfuse() is module
    assert deployed.fuse() is deployed
    assert module.unfuse() is module
    # A deployed module can still be trained, as a convolution with a bias.
    for a, b in zip(one_step(deployed, image()), one_step(unfused(deployed), image()), strict=True):
        close(a, b, 1e-4)


def test_fuse_without_running_statistics_returns_the_module():
    module = ConvBNAct.from_modules(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C, track_running_stats=False))
    assert module.fuse() is module


def test_extra_repr_shows_the_backend():
    module = unit("depthwise")
    assert f"backend={cnnkernels.explain().ops['dwconv_bn_act']['cpu tensors']}" in repr(module)
    with cnnkernels.use_backend("reference"):
        assert "backend=reference" in repr(module)


@pytest.mark.parametrize("training", [True, False])
def test_residual_after_the_activation(training):
    """In the block's own pass; whoever watches the block sees it without the sum."""
    torch.manual_seed(0)
    block = ConvBNAct(C, C, 3, act="leaky_relu(0.1)").train(training)
    x = image()
    expected = block.act(block.bn(block.conv(x))) + x
    with cnnkernels.record_backends() as runs:
        close(plus(block, x, x), expected, 1e-5)
    assert not training or "bn_act_train" in ran(runs)
    seen = []
    block.register_forward_hook(lambda module, args, y: seen.append(y))
    close(plus(block, x, x), expected, 1e-5)
    close(seen[0], expected - x, 1e-5)
