"""Necks beside torchvision's, effdet's and formulas written out; and behind the backbones that ``create_model`` knows."""

import copy
import importlib
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnkernels
from cnnkernels.models import create_model
from cnnkernels.models.cost import cost
from cnnkernels.nn import necks
from cnnkernels.nn.necks.bifpn import nodes
from tests import oracles
from tests.nn_oracle import close, ran, randomise

SIZES = ((25, 38), (13, 19), (7, 10))


def maps_of(channels, sizes=SIZES, n=2):
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(n, c, *size, generator=generator).contiguous(memory_format=torch.channels_last)
        for c, size in zip(channels, sizes, strict=True)
    ]


def close_to(actual, expected, tolerance, zero=0.0):
    """zero: what counts as nothing, where a whole tensor is nothing but rounding errors."""
    atol = tolerance * expected.abs().max().item() + zero
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=atol)


def equal(ours, theirs, maps):
    """The other one's parameters are ours.  Outputs and gradients of maps and parameters in float64, in evaluation and in
    training; outputs in float32."""
    for training in (False, True):
        results = []
        for neck in (ours.double(), theirs.double()):
            neck.train(training).zero_grad()
            x = [m.double().requires_grad_() for m in maps]
            y = neck(list(x))
            torch.manual_seed(1)
            sum((m * torch.randn(m.shape)).sum() for m in y).backward()
            gradients = {name: p.grad for name, p in neck.named_parameters()}
            results.append([*y, *(m.grad for m in x), *(gradients[name] for name, _ in ours.named_parameters())])
        assert len(y) == len(ours.channels)
        largest = max(b.abs().max().item() for b in results[1])
        for a, b in zip(*results, strict=True):
            close_to(a, b, 1e-8, 1e-12 * largest)  # a bias before BatchNorm has a gradient of zero
    ours, theirs = ours.float().eval(), theirs.float().eval()
    with torch.no_grad():
        for a, b in zip(ours(maps), theirs(list(maps)), strict=True):
            close_to(a, b, 1e-4)


class Fed(nn.Module):
    """A neck with maps of given sizes, whatever the image."""

    def __init__(self, neck, channels, sizes):
        super().__init__()
        self.neck, self.channels, self.sizes = neck, channels, sizes

    def forward(self, x):
        return self.neck([x.new_zeros(1, c, s, s) for c, s in zip(self.channels, self.sizes, strict=True)])


ASFF_WIDTHS = (256, 256, 512), (52, 26, 13)


@pytest.mark.parametrize(
    ("make", "channels", "sizes", "parameters", "macs", "keys"),
    [
        (lambda c: necks.FPN(c), (256, 512, 1024, 2048), (56, 28, 14, 7), 3_344_384, 2_841_968_640, 16),
        (lambda c: necks.BiFPN(c, 64, 3), (40, 112, 320), (64, 32, 16), 196_281, 136_203_264, 258),
        (lambda c: necks.BiFPN(c, 160, 6), (48, 136, 384), (112, 56, 28), 1_559_474, 3_755_971_520, 474),
        (lambda c: necks.ASFFLevel(0, c, 1024), *ASFF_WIDTHS, 7_106_803, 1_200_340_752, 38),
        (lambda c: necks.ASFFLevel(1, c, 512), *ASFF_WIDTHS, 1_915_123, 1_226_718_272, 38),
        (lambda c: necks.ASFFLevel(2, c, 256), *ASFF_WIDTHS, 734_451, 1_650_651_392, 32),
    ],
    ids=["FPN", "BiFPN of D0", "BiFPN of D3", "ASFF 0", "ASFF 1", "ASFF 2"],
)
def test_published_counts(make, channels, sizes, parameters, macs, keys):
    with torch.device("meta"):
        neck = make(channels)
        counted = cost(Fed(neck, channels, sizes), (1, 3, 8, 8))
    assert (counted.parameters, counted.macs, len(neck.state_dict())) == (parameters, macs, keys)


def test_counts_of_nas_fpn():
    """Three laterals, and 7 x 7 cells of one 3x3 convolution, each with BatchNorm."""
    with torch.device("meta"):
        neck = necks.NASFPN((512, 1024, 2048))
    laterals = (512 + 1024 + 2048) * 256 + 3 * 512
    assert sum(p.numel() for p in neck.parameters()) == laterals + 49 * (256 * 256 * 9 + 512)


def test_fpn_as_torchvision():
    oracles.package("torchvision")
    channels = (8, 12, 20)
    theirs = importlib.import_module("torchvision.ops").FeaturePyramidNetwork(list(channels), 16)
    ours = necks.FPN(channels, 16)
    ours.load_state_dict(theirs.state_dict(), strict=True)

    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner_blocks, self.layer_blocks = theirs.inner_blocks, theirs.layer_blocks

        def forward(self, maps):
            return list(theirs({str(i): m for i, m in enumerate(maps)}).values())

    equal(ours, Listed(), maps_of(channels))
    assert abs(ours.layer_blocks[0][0].weight.std() - theirs.layer_blocks[0][0].weight.std()) < 1e-3


@pytest.mark.parametrize("fusion", ["fast", "sum"])
def test_bifpn_as_effdet(fusion):
    """At sizes that do not halve evenly; D0's, narrower."""
    config = oracles.package("effdet").get_efficientdet_config("tf_efficientdet_d0")
    config.update({"image_size": (200, 301), "fpn_channels": 16, "fpn_cell_repeats": 2})
    config.fpn_name = {"fast": None, "sum": "bifpn_sum"}[fusion]
    channels = (8, 16, 24)
    made = importlib.import_module("effdet.efficientdet").BiFpn(
        config, [{"num_chs": c, "reduction": 8 << i} for i, c in enumerate(channels)]
    )
    ours = randomise(necks.BiFPN(channels, 16, 2, fusion=fusion))
    if fusion == "fast":
        for name, p in ours.named_parameters():
            if name.endswith("edge_weights"):
                nn.init.uniform_(p, -0.3, 1)  # some are cut off by the ReLU
    made.load_state_dict(ours.state_dict(), strict=True)
    equal(ours, made, maps_of(channels))


@pytest.mark.parametrize("levels", [3, 5, 6])
def test_bifpn_nodes_as_effdet(levels):
    oracles.package("effdet")
    config = importlib.import_module("effdet.config.fpn_config").bifpn_config(3, 2 + levels)
    assert nodes(levels) == [(n.feat_level - 3, tuple(n.inputs_offsets)) for n in config.nodes]


def test_bifpn_fusion():
    maps = maps_of((4, 4, 4), [(5, 6)] * 3)
    fusion = necks.BiFPNFusion(3)
    with torch.no_grad():
        fusion.edge_weights.copy_(torch.tensor([1.0, -2.0, 3.0]))
    close(fusion(maps), (maps[0] + 3 * maps[2]) / 4.0001)
    plain = necks.BiFPNFusion(3, "sum")
    assert not plain.state_dict()
    before = [m.clone() for m in maps]
    close(plain(maps), maps[0] + maps[1] + maps[2])
    assert all(torch.equal(a, b) for a, b in zip(maps, before, strict=True))
    for inputs in (2, 3):
        x = [torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(inputs)]
        for kind in ("fast", "sum"):
            module = necks.BiFPNFusion(inputs, kind).double()
            assert torch.autograd.gradcheck(lambda *x, module=module: module(x), x)


def test_fusion_is_one_op_of_plain_maps():
    """Two to four maps of one shape and dtype in training and evaluation; everything else step by step, with equal results."""
    fusion, act = necks.BiFPNFusion(3), nn.SiLU(inplace=True)
    with torch.no_grad():
        fusion.edge_weights.copy_(torch.tensor([1.0, -2.0, 3.0]))
    maps = maps_of((4, 4, 4), [(5, 6)] * 3)
    want = F.silu((maps[0] + 3 * maps[2]) / 4.0001)

    def ops_of(module, x, *args):
        with cnnkernels.record_backends() as runs:
            y = module(x, *args)
        return y, {(r.op, r.backend) for r in runs}

    for training in (True, False):
        y, used = ops_of(fusion.train(training), maps, act)
        close(y, want)
        assert used == {("weighted_fusion", "cpu")}
    assert {op for op, _ in ops_of(fusion, [m.requires_grad_() for m in maps])[1]} == {"weighted_fusion"}
    maps = [m.detach() for m in maps]
    broadcast = [maps[0], maps[1][:1], maps[2]]
    close(ops_of(fusion, broadcast, act)[0], want)
    mixed = [maps[0].double(), *maps[1:]]
    close(ops_of(fusion, mixed, act)[0].float(), want)
    close(ops_of(necks.BiFPNFusion(5), [maps[0]] * 5)[0], maps[0] * (5 / 5.0001))
    for x, module in ((broadcast, fusion), (mixed, fusion), ([maps[0]] * 5, necks.BiFPNFusion(5))):
        assert ops_of(module, x)[1] == set()
    assert ops_of(necks.BiFPNFusion(3, "sum"), maps)[1] == set()
    seen = []
    act.register_forward_hook(lambda *_: seen.append(1))
    y, used = ops_of(fusion, maps, act)
    close(y, want)
    assert seen == [1] and used == set()
    with cnnkernels.use_backend("reference"):
        assert ops_of(fusion, maps, nn.SiLU())[1] == set()


@pytest.mark.parametrize("watched", ["combine", "after_combine", "after_combine.act", "all modules"])
def test_a_node_shows_its_sum_to_whoever_looks(watched):
    """A hook on the sum, the activation or what holds it sees what it would see of plain modules."""
    neck = randomise(necks.BiFPN((8, 8), 8, 1, levels=2)).eval()
    maps, seen = maps_of((8, 8), [(6, 8), (3, 4)]), []
    node = neck.cell[0].fnode[0]
    with torch.no_grad():
        want = neck(maps)

        def look(module, args, output):
            if module is (node.combine if watched == "all modules" else node.get_submodule(watched)):
                seen.append((args, output.clone()))

        if watched == "all modules":
            handle = nn.modules.module.register_module_forward_hook(look)
        else:
            handle = node.get_submodule(watched).register_forward_hook(look)
        got = neck(maps)
        handle.remove()
        for a, b in zip(got, want, strict=True):
            close(a, b)
        assert len(seen) == 1
        neck(maps)
        assert len(seen) == 1
        weights = node.combine.edge_weights.relu()
        fused = (maps[0] * weights[0] + F.interpolate(maps[1], size=(6, 8)) * weights[1]) / (weights.sum() + 1e-4)
        expected = {
            "combine": fused,
            "all modules": fused,
            "after_combine": node.after_combine.conv(F.silu(fused)),
            "after_combine.act": F.silu(fused),
        }
        close(seen[0][1], expected[watched])


@pytest.mark.parametrize("last", [True, False], ids=["channels_last", "nchw"])
def test_pyramids_enlarge_and_add_in_one_pass(last):
    """FPN with gradients or in NCHW, NAS-FPN always; a lateral convolution that adds by itself keeps doing so."""
    fmt = torch.channels_last if last else torch.contiguous_format
    channels = (6, 8, 10)
    maps = [m.contiguous(memory_format=fmt) for m in maps_of(channels)]
    for make, sums in ((lambda: necks.FPN(channels, 12), 2), (lambda: necks.NASFPN(channels, 12, 1), 3)):
        neck = randomise(make()).eval()
        with cnnkernels.record_backends() as runs:
            sum(m.sum() for m in neck([m.requires_grad_() for m in maps])).backward()
        names = [(r.op, r.backend) for r in runs]
        assert names.count(("upsample_add", "cpu")) == names.count(("upsample_add_backward", "cpu")) == sums
        with torch.no_grad(), cnnkernels.record_backends() as runs:
            neck([m.detach() for m in maps])
        kept = last and isinstance(neck, necks.FPN)
        assert [r.op for r in runs].count("upsample_add") == (0 if kept else sums)
        with cnnkernels.use_backend("reference"), cnnkernels.record_backends() as runs:
            neck(maps)
        assert "upsample_add" not in {r.op for r in runs}


class PlainASFF(nn.Module):
    """YOLOv3's three levels, one after the other, from the children of ours."""

    def __init__(self, neck):
        super().__init__()
        self.neck = copy.deepcopy(neck)
        for level in self.neck.children():
            for name, child in level.named_children():
                if isinstance(child, cnnkernels.nn.FusedSequential):
                    setattr(level, name, nn.Sequential(OrderedDict(child.named_children())))
        self.named_parameters = self.neck.named_parameters

    def fused(self, level, zero, one, two):
        w = torch.cat([level.weight_level_0(zero), level.weight_level_1(one), level.weight_level_2(two)], 1)
        w = F.softmax(level.weight_levels(w), dim=1)
        return level.expand(zero * w[:, 0:1] + one * w[:, 1:2] + two * w[:, 2:3])

    def forward(self, maps):
        two, one, zero = maps
        a, b, c = self.neck.level_0_fusion, self.neck.level_1_fusion, self.neck.level_2_fusion
        results = [
            self.fused(a, zero, a.stride_level_1(one), a.stride_level_2(F.max_pool2d(two, 3, 2, 1))),
            self.fused(b, F.interpolate(b.compress_level_0(zero), one.shape[2:]), one, b.stride_level_2(two)),
            self.fused(
                c,
                F.interpolate(c.compress_level_0(zero), two.shape[2:]),
                F.interpolate(one if one.shape[1] == two.shape[1] else c.compress_level_1(one), two.shape[2:]),
                two,
            ),
        ]
        return results[::-1]


@pytest.mark.parametrize("channels", [(8, 8, 16), (6, 10, 14)])
def test_asff(channels):
    """With two maps of the same width, as in YOLOv3, and with three different ones."""
    ours = randomise(necks.ASFF(channels, (8, 16, 32)))
    equal(ours, PlainASFF(ours), maps_of(channels))
    names = {name.split(".")[1] for name in ours.state_dict() if name.startswith("level_2")}
    assert ("compress_level_1" in names) == (channels[0] != channels[1])


class PlainNASFPN(nn.Module):
    """Figure 6 written out for one pyramid of maps that halve evenly."""

    def __init__(self, neck):
        super().__init__()
        self.neck = copy.deepcopy(neck)
        self.named_parameters = self.neck.named_parameters

    def forward(self, maps):
        def cell(i, x):
            conv = self.neck.stack[0].cells[i].conv
            return conv.bn(conv.conv(F.relu(x)))

        def attention(x, deeper):
            return x * F.adaptive_max_pool2d(deeper, 1).sigmoid() + deeper

        def up(x, times):
            return F.interpolate(x, scale_factor=times)

        p3, p4, p5 = (lateral.bn(lateral.conv(x)) for lateral, x in zip(self.neck.lateral, maps, strict=True))
        p6 = F.max_pool2d(p5, 2)
        p7 = F.max_pool2d(p6, 2)
        first = cell(0, attention(p4, up(p6, 4)))
        second = cell(1, p4 + first)
        n3 = cell(2, p3 + up(second, 2))
        n4 = cell(3, second + F.max_pool2d(n3, 2))
        n5 = cell(4, attention(F.max_pool2d(n3, 4), F.max_pool2d(n4, 2)) + p5)
        n7 = cell(5, attention(F.max_pool2d(second, 8), F.max_pool2d(n5, 4)) + p7)
        n6 = cell(6, attention(F.max_pool2d(n5, 2), up(n7, 2)))
        return [n3, n4, n5, n6, n7]


def test_nas_fpn():
    channels = (6, 8, 10)
    ours = randomise(necks.NASFPN(channels, 12, 1))
    equal(ours, PlainNASFPN(ours), maps_of(channels, [(32, 48), (16, 24), (8, 12)]))


def test_nas_fpn_of_maps_that_do_not_halve_evenly():
    """Every level keeps its size through a stack; a lateral convolution is left out where the channels are right."""
    neck = necks.NASFPN((6, 12, 10), 12, 2)
    assert isinstance(neck.lateral[1], nn.Identity)
    assert [m.shape for m in neck(maps_of((6, 12, 10)))] == [(2, 12, *size) for size in (*SIZES, (4, 5), (2, 3))]


BACKBONES = ["mobilenet_v2", "resnet18", "efficientnet_b0", "darknet53", "shufflenet_v2_x1_0"]
NECKS = {
    "FPN": (lambda c: necks.FPN(c, 32), set()),
    "BiFPN": (lambda c: necks.BiFPN(c, 32, 1), {"dwconv_bn_act", "weighted_fusion"}),
    "ASFF": (lambda c: necks.ASFF(c), set()),
    "NASFPN": (lambda c: necks.NASFPN(c, 32, 1), {"upsample_add"}),
    "PAN": (lambda c: necks.PAN(c), set()),
}


@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_feeds_every_neck(backbone, neck):
    """The last three maps, of strides 8, 16 and 32; and the same from plain modules."""
    torch.manual_seed(0)
    make, ops = NECKS[neck]
    trunk = create_model(backbone, features_only=True, out_indices=(-3, -2, -1)).eval()
    assert trunk.strides == [8, 16, 32]
    neck = randomise(make(trunk.channels)).eval()
    with torch.no_grad():
        maps = trunk(torch.randn(1, 3, 96, 64))
        with cnnkernels.record_backends() as runs:
            results = neck(maps)
        with cnnkernels.use_backend("reference"):
            plain = neck(maps)
    assert ops <= ran(runs)
    assert {r.backend for r in runs} <= {"cpu"}
    assert [m.shape[1] for m in results] == neck.channels
    sizes = [(12, 8), (6, 4), (3, 2), (2, 1), (1, 1)]
    assert [tuple(m.shape[2:]) for m in results] == sizes[: len(results)]
    for a, b in zip(results, plain, strict=True):
        close_to(a, b, 1e-4)


@pytest.mark.parametrize("neck", NECKS)
def test_refuses(neck):
    module = NECKS[neck][0]([8, 12, 16])
    for maps in (maps_of((8, 12, 17)), maps_of((8, 12), SIZES[:2]), [m[0] for m in maps_of((8, 12, 16))]):
        with pytest.raises(ValueError, match=rf"{neck}: needs maps \[N, C, H, W\] with C = \[8, 12, 16\], got \["):
            module(maps)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: necks.FPN([]), "FPN: in_channels must be of at least one map, got none"),
        (lambda: necks.BiFPN([8], levels=1), "BiFPN: needs at least one cell, two levels"),
        (lambda: necks.BiFPN([8] * 6, levels=5), "BiFPN: needs at least one cell, two levels"),
        (lambda: necks.BiFPNFusion(3, "mean"), "fusion must be one of fast, sum, got 'mean'"),
        (lambda: necks.BiFPNFusion(1), "inputs must be at least 2, got 1"),
        (lambda: necks.BiFPNFusion(3)(maps_of((4, 4), [(5, 6)] * 2)), "BiFPNFusion: needs 3 maps, got 2"),
        (lambda: necks.ASFF([8, 8]), r"ASFF: needs channels of 3 maps, got \[8, 8\]"),
        (lambda: necks.ASFFLevel(3, [8, 8, 8], 8), "ASFF: needs a level from 0 to 2 of 3 maps, got level 3 of 3"),
        (lambda: necks.NASFPN([8] * 6), "NASFPN: needs 1 to 5 maps and at least one pyramid, got 6 and 7"),
    ],
)
def test_constructors_refuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()
