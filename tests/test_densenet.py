"""DenseNet: the form that computes again instead of keeping, and dropout after every layer."""

import copy

import torch
from torch import nn

from cnnkernels.models import create_model
from tests.networks.case import images


def test_memory_efficient_training_is_the_same_step():
    torch.manual_seed(0)
    kept = create_model("densenet121", num_classes=4).double()
    again = copy.deepcopy(kept)
    for layer in again.modules():
        if hasattr(layer, "memory_efficient"):
            layer.memory_efficient = True
    saved = []
    for model in (kept, again):
        total = 0

        def pack(t):
            nonlocal total
            total += t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = nn.functional.cross_entropy(model(images(2, 64).double()), torch.tensor([0, 3]))
        loss.backward()
        saved.append(total)
    assert saved[1] < 0.7 * saved[0]
    for (name, p), q in zip(kept.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_drop_rate():
    torch.manual_seed(0)
    model = create_model("densenet121", drop_rate=0.5)
    x = images(2, 64)
    with torch.no_grad():
        assert not torch.equal(model(x), model(x))
        model.eval()
        assert torch.equal(model(x), model(x))
