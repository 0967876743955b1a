"""What other tools do to a module's children or see of it: hooks, parametrisation, pruning, conversion, tracing."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from .nn_oracle import C, close, image, kinds, one_step, randomise, unfused, unit


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
