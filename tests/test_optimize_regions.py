"""Units that ``optimize`` finds: convolution, BatchNorm, activation and sums, as modules and as functions, and near misses."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cnnkernels.optimize import optimize

from .optimize_oracle import MODES, called, check, image, ready, swapped


class Net(nn.Module):
    """``body(self, x)`` around given modules."""

    def __init__(self, body, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.body = body

    def forward(self, x):
        return self.body(self, x)


def conv_bn(c_in=3, c_out=8, **kw):
    torch.manual_seed(0)
    return {"conv": nn.Conv2d(c_in, c_out, kw.pop("k", 3), **kw), "bn": nn.BatchNorm2d(c_out)}


ACTIVATIONS = {
    "module": nn.ReLU(),
    "in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
    "F.relu6": F.relu6,
    "F.hardtanh": lambda x: F.hardtanh(x, 0.0, 6.0),
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "leaky by name": lambda x: F.leaky_relu(x, negative_slope=0.2),
    "F.silu": F.silu,
    "F.mish": F.mish,
    "F.hardswish": F.hardswish,
    "F.hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "nn.SiLU": nn.SiLU(inplace=True),
    "nn.Mish": nn.Mish(),
    "nn.LeakyReLU": nn.LeakyReLU(0.3),
    "nn.Hardsigmoid": nn.Hardsigmoid(),
    "mish written out": lambda x: x * torch.tanh(F.softplus(x)),
    "mish by method": lambda x: x * F.softplus(x).tanh(),
    "silu written out": lambda x: x * torch.sigmoid(x),
    "silu by method": lambda x: x.sigmoid() * x,
    "hard swish written out": lambda x: x * (F.relu6(x + 3) / 6),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ACTIVATIONS)
def test_activation_forms(form, mode):
    act = ACTIVATIONS[form]
    modules = conv_bn() | ({"act": act} if isinstance(act, nn.Module) else {})
    apply = (lambda m, x: m.act(m.bn(m.conv(x)))) if "act" in modules else (lambda m, x: act(m.bn(m.conv(x))))
    fast, _ = check(Net(apply, **modules), image(), {"conv": 1}, mode)
    leftover = [n for n in fast.program(mode == "train").call.graph.nodes if n.op in ("call_function", "call_method")]
    assert not leftover  # the activation is inside the unit


@pytest.mark.parametrize(
    "act",
    [
        F.elu,
        lambda x: F.hardtanh(x, -1.0, 1.0),
        lambda x: F.softplus(x, 2.0).tanh() * x,
        nn.PReLU(),
    ],
    ids=["elu", "hardtanh", "softplus with beta", "PReLU"],
)
def test_activations_that_no_kernel_knows_run_behind_the_unit(act):
    modules = conv_bn() | ({"act": act} if isinstance(act, nn.Module) else {})
    apply = (lambda m, x: m.act(m.bn(m.conv(x)))) if "act" in modules else (lambda m, x: act(m.bn(m.conv(x))))
    fast, _ = check(Net(apply, **modules), image(), {"conv": 1})
    assert len([n for n in fast.program(False).call.graph.nodes if n.op.startswith("call_")]) > 2  # entry, unit, ...


GEOMETRIES = {
    "bias": {"bias": True, "padding": 1},
    "groups": {"c_in": 4, "groups": 2},
    "depthwise": {"c_in": 8, "groups": 8, "padding": 1},
    "depthwise multiplier": {"c_in": 4, "groups": 4},
    "depthwise dilated": {"c_in": 8, "groups": 8, "dilation": 2, "padding": 2},
    "dilation": {"dilation": 2, "padding": 2},
    "pointwise": {"c_in": 16, "c_out": 16, "k": 1},
    "pointwise strided": {"c_in": 16, "c_out": 16, "k": 1, "stride": 2},
    "same": {"padding": "same"},
    "valid": {"padding": "valid", "stride": 2},
    "asymmetric kernel": {"k": (1, 5), "padding": (0, 2)},
    "stem": {"stride": 2, "padding": 1},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_geometries(geometry, mode):
    options = dict(GEOMETRIES[geometry])
    modules = conv_bn(**options)
    model = Net(lambda m, x: F.relu(m.bn(m.conv(x))), **modules)
    fast, _ = check(model, image(modules["conv"].in_channels), {"conv": 1}, mode)
    if geometry.startswith("depthwise") and "multiplier" not in geometry and mode == "infer":
        assert called(fast, image(modules["conv"].in_channels))[1] == {"dwconv_bn_act": 1}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
def test_padding_modes_leave_the_convolution_alone(padding_mode, mode):
    model = Net(lambda m, x: F.relu(m.bn(m.conv(x))), **conv_bn(padding=1, padding_mode=padding_mode))
    fast, _ = check(model, image(), {"norm": 1}, mode)
    op = "bn_act" if mode == "infer" else "bn_act_train"
    assert called(fast, image())[1] == {op: 1}


@pytest.mark.parametrize("mode", MODES)
def test_transposed_convolutions_are_left_alone(mode):
    modules = {"conv": nn.ConvTranspose2d(3, 8, 2, 2), "bn": nn.BatchNorm2d(8)}
    check(Net(lambda m, x: F.relu(m.bn(m.conv(x))), **modules), image(), {"norm": 1}, mode)


KINDS_OF_NORM = ({"affine": False}, {"track_running_stats": False}, {"momentum": None}, {"eps": 0.1})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", KINDS_OF_NORM, ids=str)
def test_kinds_of_batch_norm(options, mode):
    modules = conv_bn(bias=False) | {"bn": nn.BatchNorm2d(8, **options)}
    check(Net(lambda m, x: F.relu(m.bn(m.conv(x))), **modules), image(), {"conv": 1}, mode)


@pytest.mark.parametrize("mode", MODES)
def test_lone_norm_and_activation(mode):
    model = Net(lambda m, x: m.conv(F.relu(m.bn(x))), bn=nn.BatchNorm2d(3), conv=nn.Conv2d(3, 4, 3))
    fast, _ = check(model, image(), {"norm": 1} | ({"conv": 1} if mode == "infer" else {}), mode)
    assert called(fast, image())[1]["bn_act" if mode == "infer" else "bn_act_train"] == 1


SUMS = {
    "x + unit": lambda x, y: x + y,
    "unit + x": lambda x, y: y + x,
    "torch.add": lambda x, y: torch.add(y, x),
    "method": lambda x, y: y.add(x),
    "in place": operator.iadd,
    "add_": lambda x, y: y.add_(x),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("after", [None, F.relu, F.silu], ids=["", "relu", "silu"])
@pytest.mark.parametrize("form", SUMS)
def test_sums(form, after, mode):
    """The way past the unit is read twice, as in any residual block."""

    def body(m, x):
        y = SUMS[form](m.first(x), m.bn(m.conv(m.first(x))))
        return y if after is None else after(y)

    modules = conv_bn(6, 6, padding=1) | {"first": nn.AvgPool2d(1)}
    fast, _ = check(Net(body, **modules), image(6), {"conv_sum": 1}, mode)
    names = [str(n.target) for n in fast.program(mode == "train").call.graph.nodes if n.op == "call_function"]
    assert not names


@pytest.mark.parametrize("mode", MODES)
def test_residual_behind_an_activation(mode):
    model = Net(lambda m, x: x + F.relu6(m.bn(m.conv(x))), **conv_bn(8, 8, padding=1, groups=8))
    fast, _ = check(model, image(8), {"conv_sum": 1}, mode)
    if mode == "infer":
        assert called(fast, image(8))[1] == {"dwconv_bn_act": 1}


@pytest.mark.parametrize("mode", MODES)
def test_residual_that_is_broadcast_stays_a_sum(mode):
    model = Net(lambda m, x: m.bn(m.conv(x)) + m.scale, scale=nn.Parameter(torch.randn(1, 6, 1, 1)), **conv_bn(3, 6))
    check(model, image(), {"conv": 1}, mode)
    model = Net(lambda m, x: m.bn(m.conv(x)) + x.amax((2, 3), keepdim=True), **conv_bn(6, 6))
    check(model, image(6), {"conv": 1}, mode)


@pytest.mark.parametrize("mode", MODES)
def test_sum_with_a_factor_stays_a_sum(mode):
    model = Net(lambda m, x: torch.add(m.bn(m.conv(x)), x, alpha=2), **conv_bn(6, 6, padding=1))
    check(model, image(6), {"conv": 1}, mode)


@pytest.mark.parametrize("mode", MODES)
def test_unit_that_is_read_twice(mode):
    """What the convolution returns is needed itself: neither the BatchNorm nor the activation may swallow it."""

    def body(m, x):
        u = m.conv(x)
        y = m.bn(u)
        return F.silu(y) + u.mean() + y.mean()

    kinds = {"norm": 1} | ({"conv": 1} if mode == "infer" else {})
    check(Net(body, **conv_bn()), image(), kinds, mode)


@pytest.mark.parametrize("mode", MODES)
def test_module_that_is_called_twice(mode):
    """Statistics of a shared BatchNorm are updated twice; as two regions or as none."""
    model = Net(lambda m, x: F.relu(m.bn(m.conv(F.relu(m.bn(m.conv(x)))))), **conv_bn(6, 6, padding=1, bias=False))
    check(model, image(6), {"conv": 2}, mode)


@pytest.mark.parametrize("mode", MODES)
def test_dropout_stays_where_it_draws(mode):
    model = Net(lambda m, x: F.relu(m.drop(m.bn(m.conv(x)))), drop=nn.Dropout2d(0.5), **conv_bn())
    x = image()
    model = ready(model, mode)
    fast, report = optimize(model, x, mode, tune=False)
    assert swapped(report) == {"conv": 1}
    torch.manual_seed(3)
    y = fast(x)
    zeros = (y == 0).all(-1).all(-1).float().mean()
    assert (zeros > 0.2) == (mode == "train")
    torch.manual_seed(3)
    if mode == "train":
        torch.testing.assert_close(y, model(x), rtol=1e-4, atol=1e-4)


def test_identity_and_dropout_in_evaluation_are_passed():
    modules = conv_bn(6, 6, padding=1) | {"drop": nn.Dropout(0.5), "id": nn.Identity()}
    fast, _ = check(Net(lambda m, x: x + m.drop(m.id(m.bn(m.conv(x)))), **modules), image(6), {"conv_sum": 1})
    assert len([n for n in fast.program(False).call.graph.nodes if n.op == "call_module"]) == 2  # entry, unit


def test_empty_batch_and_image_without_a_batch():
    model = ready(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))
    fast, _ = optimize(model, image(), tune=False)
    with torch.no_grad():
        assert fast(image()[:0]).shape == (0, 8, 14, 14)
        with pytest.raises(ValueError, match="4D"):
            fast(image()[0])
