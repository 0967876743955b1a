"""The modules against the same children run one by one, on every path that forward can take."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import cnnkernels
from cnnkernels.nn import (
    Activation,
    ChannelShuffle,
    ConvBNAct,
    DWConvBNAct,
    FusedSequential,
    InvertedResidual,
    Mish,
    ShuffleUnit,
    SqueezeExcite,
    conv_bn_act,
    create_activation,
)

C = 12
DEPTHWISE = {"groups": C}
ACTS = ("identity", "relu", "relu6", "leaky_relu(0.1)", "silu", "hard_swish", "mish", "sigmoid", "hard_sigmoid")


def close(a, b, tolerance=2e-5):
    """fp32 sums of some hundred terms in another order."""
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def randomise(module):
    """Parameters and running statistics as after some training."""
    torch.manual_seed(1)
    for m in module.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            if m.running_mean is not None:
                nn.init.normal_(m.running_mean)
                nn.init.uniform_(m.running_var, 0.5, 2)
            if m.affine:
                nn.init.uniform_(m.weight, 0.5, 2)
                nn.init.normal_(m.bias)
    return module


def unit(kind, **kw):
    torch.manual_seed(0)
    module = DWConvBNAct(C, **kw) if kind == "depthwise" else ConvBNAct(C, C, 3, **kw)
    return randomise(module)


def unfused(module):
    """The same children, copied, one after the other."""
    return nn.Sequential(*copy.deepcopy([module.conv, module.bn, module.act])).train(module.training)


def image(n=2, c=C, size=9, channels_last=False):
    torch.manual_seed(5)
    x = torch.randn(n, c, size, size)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def ran(runs):
    return {r.op for r in runs}


kinds = pytest.mark.parametrize("kind", ["depthwise", "dense"])
OPS = {"depthwise": {"dwconv_bn_act", "dwconv_bn_act_train"}, "dense": {"bn_act", "bn_act_train"}}

# ---- values and gradients --------------------------------------------------------------------------------------------


def one_step(module, x):
    x = x.clone().requires_grad_()
    y = module(x)
    torch.manual_seed(9)
    (y * torch.randn_like(y)).sum().backward()
    return [y, x.grad, *(p.grad for p in module.parameters()), *module.buffers()]


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
def test_half_precision_module(kind):
    module = unit(kind).eval()
    expected = unfused(module)
    with torch.no_grad():
        y = module.to(torch.bfloat16)(image().bfloat16())
        assert y.dtype is torch.bfloat16
        close(y.float(), expected(image()), 6e-2)


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
    assert {(r.op, r.backend) for r in runs} == {("dwconv_bn_act" if kind == "depthwise" else "bn_act", backend)}


# ---- folded results do not go stale ----------------------------------------------------------------------------------


def changes():
    def train_step(m):
        m.train()
        m(image()).sum().backward()
        torch.optim.SGD(m.parameters(), 0.001).step()
        m.eval()

    def train_step_without_leaving_eval(m):
        m(image()).square().sum().backward()
        torch.optim.SGD(m.parameters(), 0.001).step()

    def statistics_only(m):
        m.bn.train()
        with torch.no_grad():
            m(image())
        m.bn.eval()

    def load(m):
        m.load_state_dict({k: v + 1 if v.is_floating_point() else v for k, v in m.state_dict().items()})

    def assign(m):
        m.load_state_dict({k: v + 1 if v.is_floating_point() else v for k, v in m.state_dict().items()}, assign=True)

    def replace_child(m):
        m.bn = randomise(nn.BatchNorm2d(C)).eval()
        nn.init.zeros_(m.bn.running_mean)

    def replace_data(m):
        m.conv.weight.data = m.conv.weight.data * 2

    def eps(m):
        m.bn.eps = 0.5

    def in_place(m):
        with torch.no_grad():
            m.bn.running_var.mul_(3)

    def detached(m):
        m.bn.weight.detach().mul_(3)

    return [v for v in locals().values() if callable(v)]


@kinds
@pytest.mark.parametrize("change", changes(), ids=lambda f: f.__name__)
def test_no_stale_fold(kind, change):
    module = unit(kind).eval()
    with torch.no_grad():
        before = module(image())
    change(module)
    with torch.no_grad():
        after = module(image())
        close(after, unfused(module)(image()))
    assert not torch.allclose(before, after)


@kinds
def test_fold_is_kept_between_calls_and_dropped(kind):
    module = unit(kind).eval()
    for _ in range(2):
        with torch.inference_mode():
            module(image())
    (kept,) = module._folds.values()
    with torch.no_grad():
        module(image())
    assert next(iter(module._folds.values())) is kept
    for drop in (module.train, module.eval, module.double, lambda: module.load_state_dict(module.state_dict())):
        module.float().eval()
        with torch.no_grad():
            module(image())
        assert module._folds
        drop()
        assert not module._folds


@kinds
def test_fold_made_in_inference_mode_serves_gradients_for_x(kind):
    module = unit(kind).eval().requires_grad_(False)
    with torch.inference_mode():
        module(image())
    for a, b in zip(one_step(module, image())[:2], one_step(unfused(module), image())[:2], strict=True):
        close(a, b, 1e-4)


@kinds
def test_module_made_in_inference_mode(kind):
    with torch.inference_mode():
        module = unit(kind).eval()
        close(module(image()), unfused(module)(image()))
        module.bn.bias.add_(1)
        close(module(image()), unfused(module)(image()))


@kinds
def test_double_module(kind):
    module = unit(kind).double().eval()
    with torch.no_grad():
        close(module(image().double()), unfused(module)(image().double()), 1e-12)


# ---- copies and checkpoints ------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match="padding must be given for an even kernel_size"):
        DWConvBNAct(C, kernel_size=2)


# ---- what other tools do to children ---------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("child", ["conv", "bn", "act"])
@pytest.mark.parametrize("hook", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
@pytest.mark.parametrize("training", [True, False])
def test_hooks_on_children_run(kind, child, hook, training):
    module = unit(kind).train(training)
    seen = []
    handle = getattr(getattr(module, child), f"register_{hook}_hook")(lambda *args: seen.append(hook))
    expected = unfused(module)
    for m in expected:
        for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks):
            hooks.clear()
    got = one_step(module, image())
    assert seen == [hook]
    for a, b in zip(got, one_step(expected, image()), strict=True):
        close(a, b, 1e-4)
    handle.remove()
    module(image())
    assert seen == [hook]


@kinds
def test_hook_without_gradients(kind):
    module = unit(kind).eval()
    seen = []
    module.conv.register_forward_hook(lambda m, args, y: seen.append(y.clone()))
    with torch.no_grad():
        module(image())
    close(seen[0], module.conv(image()))


@kinds
def test_global_hooks_run(kind):
    module, seen = unit(kind).eval(), []
    handle = nn.modules.module.register_module_forward_hook(lambda m, args, y: seen.append(type(m)))
    try:
        module(image())
    finally:
        handle.remove()
    assert seen[:3] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU6 if kind == "depthwise" else nn.ReLU]


@kinds
def test_parametrised_weight(kind):
    class Twice(nn.Module):
        def forward(self, w):
            return 2 * w

    module = unit(kind).eval()
    with torch.no_grad():
        module(image())
        parametrize.register_parametrization(module.conv, "weight", Twice())
        twice = module(image())
        close(twice, nn.Sequential(module.conv, module.bn, module.act)(image()))
        module.conv.parametrizations.weight.original.add_(1)
        assert not torch.allclose(module(image()), twice)
    assert module.fuse() is module


@kinds
def test_pruning(kind):
    module = unit(kind).eval()
    with torch.no_grad():
        module(image())
        prune.random_unstructured(module.conv, "weight", 0.5)
        close(module(image()), nn.Sequential(module.conv, module.bn, module.act)(image()))
        prune.remove(module.conv, "weight")
        close(module(image()), unfused(module)(image()))


@kinds
def test_replaced_forward(kind):
    module = unit(kind).eval()
    forward = module.conv.forward
    module.conv.forward = lambda x: forward(x) + 7
    with torch.no_grad():
        close(module(image()), module.act(module.bn(forward(image()) + 7)))


@kinds
def test_subclass_of_conv(kind):
    class Standardised(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)

    module = unit(kind)
    conv = Standardised(C, C, 3, groups=module.conv.groups)
    cls = type(module)
    for training in (True, False):
        module = randomise(cls.from_modules(conv, nn.BatchNorm2d(C), nn.ReLU())).train(training)
        module.zero_grad()
        expected = unfused(module)
        for a, b in zip(one_step(module, image()), one_step(expected, image()), strict=True):
            close(a, b, 1e-4)


@kinds
def test_unknown_activation_runs_after_the_fused_part(kind):
    module = unit(kind).eval()
    module.act = nn.PReLU(init=0.2)
    for a, b in zip(one_step(module, image()), one_step(unfused(module), image()), strict=True):
        close(a, b, 1e-4)


@kinds
def test_padding_mode(kind):
    module = unit(kind).eval()
    module.conv = nn.Conv2d(C, C, 3, padding=1, padding_mode="reflect", groups=module.conv.groups).eval()
    with torch.no_grad():
        close(module(image()), unfused(module)(image()))


@kinds
def test_sync_batch_norm_conversion_keeps_everything(kind):
    module = unit(kind)
    expected = unfused(module)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    assert type(converted.bn) is nn.SyncBatchNorm
    assert type(converted.act) is type(module.act)
    for training in (True, False):
        converted.train(training)
        expected.train(training)
        for a, b in zip(one_step(converted, image()), one_step(expected, image()), strict=True):
            close(a, b, 1e-4)


@kinds
def test_weight_averaging(kind):
    module = unit(kind)
    average = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    average.update_parameters(module)
    average.eval()
    for _ in range(2):
        with torch.no_grad():
            average(image())  # keeps a fold
            module.conv.weight.add_(1)
        average.update_parameters(module)
        with torch.no_grad():
            close(average(image()), unfused(average.module)(image()))


@kinds
def test_func_transforms(kind):
    module = unit(kind).eval()
    parameters = dict(module.named_parameters())
    buffers = dict(module.named_buffers())

    def loss(parameters, x):
        return torch.func.functional_call(module, {**parameters, **buffers}, (x[None],)).sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, image())
    module(image()).sum().backward()
    close(each["conv.weight"].sum(0), module.conv.weight.grad, 1e-4)


@kinds
def test_fx_trace(kind):
    module = nn.Sequential(unit(kind), nn.Flatten()).eval()
    traced = torch.fx.symbolic_trace(module)
    assert [n.op for n in traced.graph.nodes].count("call_module") >= 2
    with torch.no_grad():
        close(traced(image()), module(image()))


@kinds
@pytest.mark.parametrize("training", [True, False])
def test_compile(kind, training):
    module = unit(kind).train(training)
    expected = copy.deepcopy(module)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        for a, b in zip(one_step(compiled, image()), one_step(expected, image()), strict=True):
            close(a, b, 1e-4)
    with torch.no_grad():
        y = compiled(image())
        module.conv.weight.mul_(2)
        expected.conv.weight.mul_(2)
        expected(image())  # a call for a call: statistics move alike
        assert training or not torch.allclose(compiled(image()), y)
        close(compiled(image()), expected(image()), 1e-3)


@kinds
def test_export(kind):
    module = unit(kind).eval()
    program = torch.export.export(module, (image(),))
    with torch.no_grad():
        close(program.module()(image()), module(image()))


def test_bad_input_changes_nothing():
    module = unit("depthwise")
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match="dwconv_bn_act_train: "):
        module(image(c=C + 1))
    with pytest.raises(ValueError, match="dwconv_bn_act_train: "):
        module(image(n=1, size=1))  # one value per channel
    for k, v in module.state_dict().items():
        assert torch.equal(v, before[k]), k


# ---- fuse, extra_repr ------------------------------------------------------------------------------------------------


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


# ---- blocks ----------------------------------------------------------------------------------------------------------


def as_sequential(module):
    """FusedSequential, also nested, as nn.Sequential with copies of the children."""
    if isinstance(module, FusedSequential):
        return nn.Sequential(*(as_sequential(m) for m in module)).train(module.training)
    return copy.deepcopy(module)


def stack():
    return randomise(
        FusedSequential(
            nn.BatchNorm2d(C),
            nn.ReLU(),
            nn.Conv2d(C, 8, 1),
            conv_bn_act(8, 8, 3, groups=8),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.GELU(),
            nn.Conv2d(8, C, 1, bias=False),
            nn.BatchNorm2d(C),
        )
    )


@pytest.mark.parametrize("training", [True, False])
def test_fused_sequential(training):
    module = stack().train(training)
    expected = as_sequential(module)
    assert list(module.state_dict()) == list(expected.state_dict())
    for a, b in zip(one_step(module, image()), one_step(expected, image()), strict=True):
        close(a, b, 2e-4)
    with torch.no_grad():
        close(module(image(), residual=image()), module(image()) + image(), 1e-4)
        close(module[:2](image()), expected[:2](image()), 1e-4)


def test_fused_sequential_residual_after_the_last_run():
    module = FusedSequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), nn.GELU()).eval()
    with torch.no_grad():
        close(module(image(), residual=image()), as_sequential(module)(image()) + image())
        close(FusedSequential()(image(), residual=image()), 2 * image(), 0)


def test_fused_sequential_fuse():
    module = stack().eval()
    deployed = module.fuse()
    norms = [m for m in deployed.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 1  # the first has no convolution before it
    with torch.no_grad():
        close(deployed(image()), module(image()), 1e-4)
    assert deployed.unfuse() is module


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("c_out", "stride", "ratio"), [(C, 1, 6), (C, 2, 3), (8, 1, 1)])
def test_inverted_residual(training, c_out, stride, ratio):
    torch.manual_seed(0)
    module = randomise(InvertedResidual(C, c_out, stride, ratio)).train(training)
    plain = as_sequential(module.conv)

    class Expected(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = plain

        def forward(self, x):
            return x + self.conv(x) if stride == 1 and c_out == C else self.conv(x)

    expected = Expected().train(training)
    for a, b in zip(one_step(module, image()), one_step(expected, image()), strict=True):
        close(a, b, 5e-4)
    with torch.no_grad():
        y = module(image())
        close(y, expected(image()), 2e-4)
        seen = []
        module.conv.register_forward_hook(lambda m, args, out: seen.append(out.clone()))
        module(image())
        close(seen[0], plain(image()), 2e-4)  # what a hook sees is without the residual


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(("c_in", "stride"), [(C, 1), (8, 2)])
def test_shuffle_unit(c_in, stride, split):
    torch.manual_seed(0)
    module = randomise(ShuffleUnit(c_in, C, stride)).eval()
    x = image(c=c_in)
    b1, b2 = as_sequential(module.branch1), as_sequential(module.branch2)
    left, right = x.chunk(2, 1) if stride == 1 else (x, x)
    joined = torch.cat((b1(left), b2(right)), 1)
    expected = joined.view(2, 2, C // 2, *joined.shape[2:]).transpose(1, 2).reshape(joined.shape)
    with torch.no_grad():
        for given in (x, tuple(x.chunk(2, 1))):
            y = module(given, split=split)
            assert isinstance(y, tuple) == split
            close(torch.cat(y, 1) if split else y, expected, 1e-4)


def test_shuffle_unit_refuses():
    with pytest.raises(ValueError, match="stride must be 1 or 2, got 3"):
        ShuffleUnit(8, 8, 3)
    with pytest.raises(ValueError, match="equal to in_channels at stride 1"):
        ShuffleUnit(8, 12, 1)


def test_channel_shuffle():
    x = image()
    expected = x.view(2, 3, 4, 9, 9).transpose(1, 2).reshape(x.shape)
    assert torch.equal(ChannelShuffle(3)(x), expected)
    assert "groups=3" in repr(ChannelShuffle(3))


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


@pytest.mark.parametrize("name", ACTS)
def test_activation_modules(name):
    x = image()
    close(create_activation(name)(x), Activation(name)(x), 1e-5)
    if name != "identity":
        assert type(create_activation(name)).__module__.startswith(("torch.nn", "cnnkernels.nn"))


def test_mish_and_unknown_names():
    close(Mish()(image()), nn.functional.mish(image()), 1e-5)
    assert isinstance(create_activation("mish"), Mish)
    with pytest.raises(ValueError, match="create_activation: name must be one of"):
        create_activation("swishy")
    with pytest.raises(ValueError, match="gate must be sigmoid or hard_sigmoid"):
        SqueezeExcite(8, 2, gate="relu")
