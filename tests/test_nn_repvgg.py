"""RepVGG's block: three branches, merged in evaluation, never with stale weights."""

import copy
import pickle

import pytest
import torch
from torch import nn

import cnnkernels
from cnnkernels.nn import RepVGGBlock

from .nn_oracle import C, close, image, one_step, randomise

shapes = pytest.mark.parametrize(("out", "stride", "groups"), [(C, 1, 1), (C, 1, 4), (C, 2, 2), (8, 1, 1)])


class Written(nn.Module):
    """The block's definition, with copies of its children."""

    def __init__(self, block):
        super().__init__()
        self.children_ = copy.deepcopy(
            nn.ModuleList(m for m in (block.rbr_identity, block.rbr_dense, block.rbr_1x1) if m)
        )
        self.train(block.training)

    def forward(self, x):
        *identity, dense, pointwise = self.children_
        y = sum(branch.bn(branch.conv(x)) for branch in (dense, pointwise))
        return (y + identity[0](x) if identity else y).relu()


def block(out=C, stride=1, groups=1):
    torch.manual_seed(0)
    return randomise(RepVGGBlock(C, out, stride, groups))


def evaluated(module, x=None):
    with torch.no_grad():
        return module(image() if x is None else x)


@shapes
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_three_branches(out, stride, groups, training, channels_last):
    module = block(out, stride, groups).train(training)
    expected, x = Written(module), image(channels_last=channels_last)
    assert (module.rbr_identity is not None) == (stride == 1 and out == C)
    if not training:
        close(evaluated(module, x), evaluated(expected, x), 1e-4)
    with cnnkernels.record_backends() as runs:
        got = one_step(module, x)
    assert sum(r.op == "bn_act_train" for r in runs) == training * (3 if module.rbr_identity is not None else 2)
    names = ["y", "dx", *(n for n, _ in module.named_parameters()), *(n for n, _ in module.named_buffers())]
    for name, a, b in zip(names, got, one_step(expected, x), strict=True):
        torch.testing.assert_close(a, b, rtol=5e-4, atol=5e-4, msg=name)


def test_evaluation_is_one_convolution():
    module, shapes_seen = block().eval(), []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "convolution" in func.__name__:
                shapes_seen.append(args[1].shape)
            return func(*args, **(kwargs or {}))

    evaluated(module)
    with Watch():
        evaluated(module)
    assert shapes_seen == [(C, C, 3, 3)]


@shapes
def test_deploy_forms(out, stride, groups):
    module = block(out, stride, groups).eval()
    y, fused = evaluated(module), module.fuse()
    deployed = RepVGGBlock(C, out, stride, groups, deploy=True).eval()
    deployed.load_state_dict(fused.state_dict(), strict=True)
    assert list(fused.state_dict()) == ["rbr_reparam.weight", "rbr_reparam.bias"]
    assert fused.fuse() is fused
    assert fused.unfuse() is module
    assert module.unfuse() is module
    module.switch_to_deploy()
    module.switch_to_deploy()
    assert list(module.state_dict()) == list(fused.state_dict())
    for m in (fused, deployed, module):
        close(evaluated(m), y, 1e-4)
    assert fused.rbr_reparam.weight.requires_grad


def test_merging_is_exact_to_the_last_rounding():
    module, x = block(groups=3).double().eval(), image().double()
    torch.testing.assert_close(evaluated(module.fuse(), x), evaluated(Written(module), x), rtol=1e-12, atol=1e-12)


def changes():
    def train_step(m):
        m.train()
        m(image()).sum().backward()
        torch.optim.SGD(m.parameters(), 0.001).step()
        m.eval()

    def step_without_leaving_eval(m):
        m(image()).square().sum().backward()
        torch.optim.SGD(m.parameters(), 0.001).step()

    def statistics_of_the_identity(m):
        m.rbr_identity.train()
        evaluated(m)
        m.rbr_identity.eval()

    def load_into_a_branch(m):
        m.rbr_1x1.load_state_dict({k: v + 1 for k, v in m.rbr_1x1.state_dict().items()})

    def replace_child(m):
        m.rbr_1x1.conv = nn.Conv2d(C, C, 1)

    def remove_identity(m):
        m.rbr_identity = None

    def replace_data(m):
        m.rbr_dense.conv.weight.data = m.rbr_dense.conv.weight.data * 2

    def eps(m):
        m.rbr_identity.eps = 0.5

    def in_place(m):
        with torch.no_grad():
            m.rbr_dense.bn.running_var.mul_(3)

    return [v for v in locals().values() if callable(v)]


@pytest.mark.parametrize("change", changes(), ids=lambda f: f.__name__)
def test_no_stale_merge(change):
    module = block().eval()
    x = image(channels_last=True)
    before = evaluated(module, x)
    assert module._folds
    change(module)
    after = evaluated(module, x)
    close(after, evaluated(Written(module), x), 1e-4)
    assert not torch.allclose(before, after)


def test_merge_is_kept_and_dropped():
    module = block().eval()
    evaluated(module)
    kept = module._folds["merged branches"]
    evaluated(module)
    assert module._folds["merged branches"] is kept
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert not copied._folds
        close(evaluated(copied), evaluated(module))
    module.train()
    assert not module._folds


def test_hooks_inside_the_branches_run():
    module = block().eval()
    y, seen = evaluated(module), []
    handles = [
        m.register_forward_hook(lambda m, *_: seen.append(m))
        for m in (module.rbr_dense.conv, module.rbr_1x1.bn, module.rbr_identity)
    ]
    close(evaluated(module), y, 1e-4)
    assert len(seen) == 3
    assert module.fuse() is module
    with pytest.raises(ValueError, match="without hooks or parametrisations"):
        module.switch_to_deploy()
    for handle in handles:
        handle.remove()
    assert module.fuse() is not module


def test_reference_backend_and_compile():
    module = block().eval()
    y = evaluated(module)
    with cnnkernels.use_backend("reference"):
        close(evaluated(module), y, 1e-4)
    close(evaluated(torch.compile(module, backend="aot_eager", fullgraph=True)), y, 1e-4)
