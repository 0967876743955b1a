"""``Conv2dSame``: TensorFlow's padding, by hand and beside timm's; in blocks, fused as any other convolution is."""

import copy

import pytest
import torch
from torch import nn

import cnnkernels
from cnnkernels.nn import Conv2dSame, ConvBNAct, FusedSequential, create_activation
from tests import oracles

from .nn_oracle import C, close, image, one_step, ran, randomise


def test_by_hand():
    """Stride 2 over 4 columns: windows start at columns 0 and 2, and one column of zeros stands at the right."""
    conv = Conv2dSame(1, 1, (1, 3), stride=(1, 2), bias=False)
    nn.init.ones_(conv.weight)
    row = torch.tensor([1.0, 2, 4, 8]).reshape(1, 1, 1, 4)
    assert conv(row).flatten().tolist() == [1 + 2 + 4, 4 + 8]
    assert conv(row[..., :3]).flatten().tolist() == [1 + 2, 2 + 4]  # of odd width: one column on either side
    assert conv.padding_for(row) == (0, 1, 0, 0)
    assert conv.padding_for(row[..., :3]) == (0, 1)


@pytest.mark.parametrize(
    ("kernel_size", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (3, 1, 2), (4, 1, 1), (1, 2, 1), (2, 3, 1)]
)
@pytest.mark.parametrize("size", [8, 9])
def test_equals_timm(kernel_size, stride, dilation, size):
    oracles.package("timm")
    from timm.layers.conv2d_same import Conv2dSame as Expected

    torch.manual_seed(0)
    ours, theirs = (cls(C, 5, kernel_size, stride=stride, dilation=dilation) for cls in (Conv2dSame, Expected))
    theirs.load_state_dict(ours.state_dict())
    x = image(size=size)
    torch.testing.assert_close(ours(x), theirs(x))
    assert ours(x).shape[2:] == (-(-size // stride),) * 2


def unit(kind, act="silu", **kw):
    torch.manual_seed(0)
    conv = Conv2dSame(C, C, 3, stride=2, groups=C if kind == "depthwise" else 1, bias=False, **kw)
    return randomise(ConvBNAct.from_modules(conv, nn.BatchNorm2d(C), create_activation(act)))


def plain(module):
    return nn.Sequential(*copy.deepcopy([module.conv, module.bn, module.act])).train(module.training)


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["depthwise", "dense"])
def test_step_is_fused(kind, training, size):
    module = unit(kind).train(training)
    expected = plain(module)
    with cnnkernels.record_backends() as runs:
        got = one_step(module, image(size=size))
    forward = {"depthwise": "dwconv_bn_act", "dense": "bn_act"}[kind] + ("_train" if training else "")
    assert forward in ran(runs)
    for a, b in zip(got, one_step(expected, image(size=size)), strict=True):
        close(a, b, 1e-4)


@pytest.mark.parametrize("act", ["relu6", "silu"])
@pytest.mark.parametrize("kind", ["depthwise", "dense"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_evaluation_without_gradients(kind, act, channels_last):
    """Where weights are folded or given to oneDNN; the same module at sizes with even and with uneven padding."""
    module = unit(kind, act).eval()
    with torch.no_grad():
        for size in (8, 9, 8):
            x = image(size=size, channels_last=channels_last)
            y = module(x)
            close(y, plain(module)(x))
            assert y.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@pytest.mark.parametrize("kind", ["depthwise", "dense"])
def test_fuse(kind):
    module = unit(kind).eval()
    fused = module.fuse()
    assert type(fused.conv) is Conv2dSame and isinstance(fused.bn, nn.Identity)
    sequence = FusedSequential(*copy.deepcopy([module.conv, module.bn, module.act])).eval()
    with torch.no_grad():
        for size in (8, 9):
            close(fused(image(size=size)), module(image(size=size)))
            close(sequence.fuse()(image(size=size)), module(image(size=size)))


def test_subclass_is_called_as_a_module():
    class Doubled(Conv2dSame):
        def forward(self, x):
            return 2 * super().forward(x)

    torch.manual_seed(0)
    module = ConvBNAct.from_modules(Doubled(C, C, 3, stride=2, groups=C), nn.BatchNorm2d(C), nn.SiLU()).eval()
    with torch.no_grad():
        close(module(image(size=8)), plain(module)(image(size=8)))


def test_compiled_for_any_size():
    module = unit("depthwise").eval()
    torch._dynamo.reset()  # other tests compile the same code, and their versions count towards the limit
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for size in (8, 9, 12):
            close(compiled(image(size=size)), module(image(size=size)))


def test_padding_mode():
    with pytest.raises(ValueError, match="padding_mode must be zeros, got 'reflect'"):
        Conv2dSame(1, 1, 3, padding_mode="reflect")
