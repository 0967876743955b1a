"""A folded BatchNorm is kept between calls and never stale, whatever happens to the module in between."""

import pytest
import torch
from torch import nn

from .nn_oracle import C, close, image, kinds, one_step, randomise, unfused, unit


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


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad])
@pytest.mark.parametrize("form", ["fused", "foreach"])
@kinds
def test_step_of_an_optimizer_in_evaluation(kind, optimizer, form):
    """torch's fused optimizers write past the version counters."""
    module = unit(kind).eval()
    with torch.no_grad():
        before = module(image())
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optimizer(module.parameters(), 0.3, **{form: True}).step()
    with torch.no_grad():
        after = module(image())
        close(after, unfused(module)(image()))
    assert not torch.allclose(after, before)
