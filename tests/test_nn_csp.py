"""The blocks of YOLOv5 and YOLOX against their definitions written out with plain modules."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnkernels
from cnnkernels import _ext
from cnnkernels.nn import (
    C3,
    SPP,
    SPPF,
    Bottleneck,
    ConvBNAct,
    CSPLayer,
    DecoupledHead,
    Focus,
    FusedSequential,
    MaxPool2d,
    depthwise_separable,
)
from cnnkernels.nn.necks.pan import PAN

from .nn_oracle import close, image, last_image, randomise

SILU = partial(ConvBNAct, act="silu")


def plain(unit, x):
    """Convolution, BatchNorm, activation, one after the other."""
    for part in unit if isinstance(unit, nn.Sequential) else [unit]:
        x = part.act(part.bn(part.conv(x)))
    return x


def bottleneck(block, x, names=("conv1", "conv2")):
    first, second = (getattr(block, name) for name in names)
    y = plain(second, plain(first, x))
    return x + y if block.use_add else y


def csp(layer, x, prefix="conv"):
    inner = plain(getattr(layer, f"{prefix}1"), x)
    for block in layer.m:
        inner = bottleneck(block, inner, (f"{prefix}1", f"{prefix}2"))
    return plain(getattr(layer, f"{prefix}3"), torch.cat((inner, plain(getattr(layer, f"{prefix}2"), x)), dim=1))


def compare(module, definition, x, tolerance=1e-4):
    """In evaluation without and with gradients, and in training."""
    randomise(module)
    for training in (False, True):
        module.train(training)
        state = {k: v.clone() for k, v in module.state_dict().items()}
        results = []
        for function in (module, definition):
            module.load_state_dict(state)
            leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
            y = function(leaf)
            y.square().sum().backward()
            results.append([y.detach(), leaf.grad, *(p.grad for p in module.parameters()), *module.buffers()])
            results[-1] = [t.clone() for t in results[-1]]
            module.zero_grad()
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())
    module.eval()
    with torch.no_grad():
        close(module(x), definition(x), tolerance)


@pytest.mark.parametrize("widths", [(8, 8), (8, 12)])
@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize("depthwise", [True, False])
def test_bottleneck(widths, shortcut, depthwise):
    block = Bottleneck(*widths, shortcut=shortcut, conv3x3=depthwise_separable if depthwise else None)
    assert block.use_add == (shortcut and widths[0] == widths[1])
    compare(block, partial(bottleneck, block), last_image(8, (6, 9)))


@pytest.mark.parametrize("depthwise", [True, False])
def test_csp_layer(depthwise):
    layer = CSPLayer(12, 16, 2, conv3x3=depthwise_separable if depthwise else None)
    assert len(layer.m) == 2
    compare(layer, partial(csp, layer), last_image(12, (7, 5)))


def test_c3_has_other_names():
    layer = C3(12, 16, 1, shortcut=False)
    keys = {".".join(k.split(".")[:-2]) for k in layer.state_dict()}
    assert keys == {"cv1", "cv2", "cv3", "m.0.cv1", "m.0.cv2"}
    compare(layer, partial(csp, layer, prefix="cv"), image(c=12))


def test_hooks_inside_are_called():
    layer = randomise(CSPLayer(12, 16, 1)).eval()
    seen = []
    for name, module in layer.named_modules():
        if isinstance(module, (nn.BatchNorm2d, Bottleneck)):
            module.register_forward_hook(lambda *_, name=name: seen.append(name))
    with torch.no_grad():
        layer(last_image(12, (8, 8)))
    assert set(seen) == {"conv1.bn", "conv2.bn", "conv3.bn", "m.0", "m.0.conv1.bn", "m.0.conv2.bn"}


@pytest.mark.skipif(not _ext.has_kernel("inverted_residual", "cpu"), reason="needs the extension")
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_separable_is_one_call(stride, monkeypatch):
    """Unless somebody looks at a child, wants a gradient or adds something; then its two halves are called."""
    block = randomise(depthwise_separable(12, 16, 3, stride, eps=1e-3)).eval()
    halves = []
    forward = FusedSequential.forward
    monkeypatch.setattr(
        FusedSequential, "forward", lambda self, *args, **kw: (halves.append(self), forward(self, *args, **kw))[1]
    )
    x = last_image(12, (9, 8))
    with torch.no_grad():
        y = block(x)
        assert not halves
        close(y, plain(block, x), 1e-4)
        seen = []
        handle = block.pconv.bn.register_forward_hook(lambda *_: seen.append(1))
        close(block(x), y, 1e-4)
        assert (len(seen), len(halves)) == (1, 3)
        handle.remove()
        close(block(x, y), 2 * y, 1e-4)
        assert len(halves) == 6
        block(x)
        assert len(halves) == 6
    assert block(x.requires_grad_()).requires_grad
    assert len(halves) == 9
    assert [type(m) for m in block.fuse().modules() if isinstance(m, nn.BatchNorm2d)] == []


# ---- Focus -----------------------------------------------------------------------------------------------------------------


def slices(x):
    return torch.cat((x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), dim=1)


@pytest.mark.parametrize("channels_last", [True, False])
def test_focus(channels_last):
    focus = Focus(3, 32)
    assert sum(p.numel() for p in focus.parameters()) == 3_520
    compare(focus, lambda x: plain(focus.conv, slices(x)), image(c=3, size=12, channels_last=channels_last))


def test_focus_is_a_larger_convolution():
    """3x3 over the four images is 6x6 at stride 2 over the whole one: the stem of YOLOv5 6.0."""
    focus = randomise(Focus(3, 8)).eval()
    weight = torch.empty(8, 3, 6, 6)
    for part, (row, column) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        weight[..., row::2, column::2] = focus.conv.conv.weight[:, 3 * part : 3 * part + 3]
    larger = ConvBNAct(3, 8, 6, 2, padding=2, act="silu").eval()
    larger.load_state_dict(focus.conv.state_dict() | {"conv.weight": weight.detach()})
    with torch.no_grad():
        close(focus(last_image(3, (16, 20))), larger(last_image(3, (16, 20))))


# ---- SPP and SPPF ----------------------------------------------------------------------------------------------------------


def spp(module, x, sizes=(5, 9, 13), names=("conv1", "conv2")):
    y = plain(getattr(module, names[0]), x)
    pooled = [F.max_pool2d(y, k, 1, k // 2) for k in sizes]
    return plain(getattr(module, names[1]), torch.cat([y, *pooled], dim=1))


@pytest.mark.parametrize("sizes", [(5, 9, 13), (3,), (7, 3)])
def test_spp(sizes):
    module = SPP(12, 10, sizes)
    compare(module, partial(spp, module, sizes=sizes), last_image(12, (9, 7)))


@pytest.mark.parametrize("k", [3, 5])
def test_sppf_is_spp(k):
    fast, slow = randomise(SPPF(12, 10, k)), SPP(12, 10, (k, 2 * k - 1, 3 * k - 2), prefix="cv")
    slow.load_state_dict(fast.state_dict())
    compare(fast, partial(spp, fast, sizes=(k, 2 * k - 1, 3 * k - 2), names=("cv1", "cv2")), image(c=12, size=16))
    slow.load_state_dict(fast.state_dict())
    with torch.no_grad():
        assert torch.equal(fast.eval()(image(c=12)), slow.eval()(image(c=12)))


def test_sizes_of_spp():
    assert [sum(p.numel() for p in m(512, 512).parameters()) for m in (SPP, SPPF)] == [656_896, 656_896]


@pytest.mark.parametrize("kind", ["spp", "sppf"])
def test_pools_are_one_op_unless_somebody_looks(kind):
    """A hook on a pool sees its map; another kind of pool is called."""
    module = randomise(SPP(12, 10, prefix="cv") if kind == "spp" else SPPF(12, 10)).eval()
    x, seen = image(c=12, size=14), []

    def ops():
        with torch.no_grad(), cnnkernels.record_backends() as runs:
            y = module(x)
        return y, {(r.op, r.backend) for r in runs}

    expected, ran = ops()
    assert ("spp", "cpu") in ran
    pools = list(module.m) if kind == "spp" else [module.m]
    handle = pools[0].register_forward_hook(lambda *_: seen.append(1))
    y, ran = ops()
    assert torch.equal(y, expected)
    assert seen == [1] * (1 if kind == "spp" else 3)
    assert "spp" not in {op for op, _ in ran}
    handle.remove()
    for other in (nn.MaxPool2d(5, 1, 2), nn.AvgPool2d(5, 1, 2), MaxPool2d(3, 1, 1), MaxPool2d(5, 1, 2, dilation=1)):
        if kind == "spp":
            module.m[0] = other
        else:
            module.m = other
        y, _ = ops()
        first = plain(module.cv1, x)
        pooled = [p(first) for p in module.m] if kind == "spp" else [other(first), other(other(first))]
        pooled += [] if kind == "spp" else [other(pooled[-1])]
        with torch.no_grad():
            close(y, plain(module.cv2, torch.cat((first, *pooled), dim=1)))


def test_even_windows_are_refused():
    for make in (partial(SPP, 8, 8, (4, 9)), partial(SPPF, 8, 8, 2)):
        with pytest.raises(ValueError, match="kernel sizes must be odd"):
            make()


# ---- decoupled head, PAN ---------------------------------------------------------------------------------------------------


def test_decoupled_head():
    """Box, objectness, classes; each branch of its own layers; any number of levels."""
    head = randomise(DecoupledHead((6, 10), 8, 3)).eval()
    maps = [last_image(6, (8, 4)), last_image(10, (4, 2))]
    with torch.no_grad():
        levels = head(maps)
        for i, (x, level) in enumerate(zip(maps, levels, strict=True)):
            x = plain(head.stems[i], x)
            classes, boxes = x, x
            for a, b in zip(head.cls_convs[i], head.reg_convs[i], strict=True):
                classes, boxes = plain(a, classes), plain(b, boxes)
            parts = head.reg_preds[i](boxes), head.obj_preds[i](boxes), head.cls_preds[i](classes)
            close(level, torch.cat(parts, dim=1), 1e-4)
    assert [y.shape[1] for y in levels] == [8, 8]


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_pan(levels):
    """Written out for every level; maps of odd size have neighbours half as large, rounded up."""
    channels = [4, 6, 8, 10][:levels]
    neck = randomise(PAN(channels)).eval()
    sizes = [(13, 20), (7, 10), (4, 5), (2, 3)]
    maps = [last_image(c, size) for c, size in zip(channels, sizes, strict=False)]
    with torch.no_grad():
        out = neck(maps)
        assert [y.shape for y in out] == [m.shape for m in maps]
        x, kept = maps[-1], []
        for i, finer in enumerate(reversed(maps[:-1])):
            kept.append(plain(neck.reduce[i], x))
            larger = kept[-1].repeat_interleave(2, 2).repeat_interleave(2, 3)
            if larger.shape[2:] != finer.shape[2:]:
                larger = F.interpolate(kept[-1], size=finer.shape[2:])
            x = csp(neck.merge_up[i], torch.cat((larger, finer), dim=1))
        expected = [x]
        for i, narrow in enumerate(reversed(kept)):
            x = csp(neck.merge_down[i], torch.cat((plain(neck.downsample[i], x), narrow), dim=1))
            expected.append(x)
        for a, b in zip(out, expected, strict=True):
            close(a, b, 1e-4)


def test_pan_of_other_blocks():
    neck = PAN((4, 6), block=partial(ConvBNAct, act="relu"), conv=partial(ConvBNAct, act="relu"))
    assert isinstance(neck.merge_up[0], ConvBNAct)
    assert [y.shape for y in neck([image(c=4, size=8), image(c=6, size=4)])] == [(2, 4, 8, 8), (2, 6, 4, 4)]


def test_maps_that_do_not_fit():
    with pytest.raises(ValueError, match="at least two maps"):
        PAN((8,))
    with pytest.raises(ValueError, match=r"PAN: needs maps \[N, C, H, W\] with C = \[4, 6\]"):
        PAN((4, 6))([image(c=4), image(c=4)])
