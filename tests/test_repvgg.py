"""RepVGG in its two forms: published sizes, equal outputs, conversion of checkpoints."""

import pytest
import torch
from torch import nn

from cnnkernels.models import create_model, list_models
from cnnkernels.models.cost import cost
from cnnkernels.models.repvgg import convert_repvgg
from tests.networks.case import calibrate, images, randomise

# Parameters in millions and multiply-adds in 1e9 of the deploy form: tables 3 and 4 of the paper.
PAPER = {
    "a0": (8.30, 1.4),
    "a1": (12.78, 2.4),
    "a2": (25.49, 5.1),
    "b0": (14.33, 3.1),
    "b1": (51.82, 11.8),
    "b1g2": (41.36, 8.8),
    "b1g4": (36.12, 7.3),
    "b2": (80.31, 18.4),
    "b2g4": (55.77, 11.3),
    "b3": (110.96, 26.2),
    "b3g4": (75.62, 16.1),
}


def trained(name="repvgg_a0", **kw):
    model = create_model(name, num_classes=10, **kw)
    randomise(model)
    calibrate(model, 64)
    return model.eval()


@pytest.mark.parametrize("name", PAPER)
def test_published_size_of_the_deploy_form(name):
    with torch.device("meta"):
        model = create_model(f"repvgg_{name}", deploy=True)
    counted = cost(model, (1, 3, 224, 224))
    assert counted.parameters / 1e6 == pytest.approx(PAPER[name][0], abs=0.0101)
    assert counted.macs / 1e9 == pytest.approx(PAPER[name][1], abs=0.0501)
    if name == "a0":
        assert counted.parameters == 8_309_384
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize("name", ["repvgg_a0", "repvgg_b1g4"])
def test_train_form_equals_deploy_form(name):
    model, x = trained(name), images(2, 64)
    deployed = create_model(name, num_classes=10, deploy=True).eval()
    deployed.load_state_dict(convert_repvgg(model.state_dict()), strict=True)
    with torch.no_grad():
        model.backend = "reference"  # the branches, one after the other
        y = model(x)
        model.backend = None
        for other in (model, deployed, model.deploy()):
            z = other(x)
            torch.testing.assert_close(z, y, rtol=1e-4, atol=1e-4 * y.abs().max().item())
    state = deployed.state_dict()
    assert list(model.state_dict()) == list(state) == list(convert_repvgg(state))
    for k, v in model.state_dict().items():
        torch.testing.assert_close(v, state[k], rtol=0, atol=0)


def test_conversion_wants_whole_blocks():
    state = create_model("repvgg_a0", num_classes=10).state_dict()
    del state["stage2.1.rbr_1x1.bn.running_var"]
    with pytest.raises(KeyError, match=r"stage2.1.rbr_1x1.bn.running_var"):
        convert_repvgg(state)


def test_evaluation_training_evaluation():
    model, x = trained(), images(2, 64)
    with torch.no_grad():
        before = model(x)
    model.train()(x).sum().backward()
    torch.optim.SGD(model.parameters(), 1e-4).step()
    with torch.no_grad():
        after = model.eval()(x)
        model.backend = "reference"
        plain = model(x)
    torch.testing.assert_close(after, plain, rtol=1e-4, atol=1e-4 * plain.abs().max().item())
    assert not torch.allclose(before, after)


def test_groups_are_in_every_other_block():
    with torch.device("meta"):
        model = create_model("repvgg_b1g4")
    blocks = [block for stage in model.steps() for block in (stage if isinstance(stage, nn.Sequential) else [stage])]
    assert [b.rbr_dense.conv.groups for b in blocks] == [1] + [1, 4] * 13 + [1]
    assert len(list_models("repvgg*")) == 13
