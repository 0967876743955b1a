"""YOLOv4, v4-tiny, yolov4-csp and yolov4x-mish beside networks computed as their configuration files say; their blocks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import cnnkernels
from cnnkernels.models import create_model
from cnnkernels.models.darknet_weights import save_darknet_weights
from cnnkernels.models.yolov4 import YOLOv4Tiny
from cnnkernels.nn import CBL, CBM, CSPX, DarknetSPP, ResUnit, ResX, TinyCSP
from tests import darknet_cfg
from tests.darknet_detectors import CLASSES, assert_as_darknet, assert_same_training_step, close, written
from tests.networks.case import images

NARROW = {"width": 16}
CONFIGURATIONS = {
    "yolov4": (darknet_cfg.YOLOV4, {}),
    "yolov4_tiny": (darknet_cfg.YOLOV4_TINY, {}),
    "yolov4_csp_640": (darknet_cfg.YOLOV4_CSP.narrow(4), NARROW),
    "yolov4x_mish_640": (darknet_cfg.YOLOV4X_MISH.narrow(5), NARROW),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_as_configured(name, tmp_path):
    cfg, kw = CONFIGURATIONS[name]
    runs = assert_as_darknet(name, cfg, tmp_path, **kw)
    fused = {r.op for r in runs if r.backend == "cpu"}
    if "mish" in cfg.words:
        assert "bn_act" in fused  # Mish; a leaky ReLU is part of the convolution
    assert {r.backend for r in runs if r.op == "bn_act"} <= {"cpu"}


def test_weight_file_round_trip(tmp_path):
    cfg, kw = CONFIGURATIONS["yolov4_csp_640"]
    path, again = written(cfg, tmp_path), tmp_path / "b.weights"
    save_darknet_weights(create_model("yolov4_csp_640", pretrained=path, num_classes=CLASSES, **kw), again)
    assert again.read_bytes()[20:] == path.read_bytes()[20:]


def test_training_step():
    torch.manual_seed(0)
    model = create_model("yolov4x_mish_640", num_classes=1, width=4, depths=(1, 1, 1, 1, 1))
    runs = assert_same_training_step(model, images(2, 64))
    assert {(r.op, r.backend) for r in runs} >= {("bn_act_train", "cpu")}


def test_training_step_of_tiny():
    torch.manual_seed(0)
    runs = assert_same_training_step(YOLOv4Tiny(num_classes=2), images(2, 64))
    assert {(r.op, r.backend) for r in runs} >= {("bn_act_train", "cpu")}


# ---- blocks ----------------------------------------------------------------------------------------------------------------

BLOCKS = {
    "CBL": lambda: CBL(8, 12, 3, 2),
    "CBM": lambda: CBM(8, 12, 3),
    "ResUnit": lambda: ResUnit(8, 4, "mish"),
    "ResX": lambda: ResX(8, 12, 2),
    "CSPX": lambda: CSPX(8, 12, 2),
    "CSPX, first": lambda: CSPX(8, 12, 1, first=True),
    "TinyCSP": lambda: TinyCSP(8),
    "DarknetSPP": DarknetSPP,
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_block_as_its_plain_modules(name, memory_format):
    """In evaluation, and in training with gradients, in float64."""
    torch.manual_seed(0)
    block = BLOCKS[name]().double()
    for training in (True, False):
        block.train(training)
        grads = []
        for backend in (None, "reference"):
            x = images(2, 16, 24, channels=8).double().contiguous(memory_format=memory_format).requires_grad_()
            with cnnkernels.use_backend(backend):
                y = block(x)
                y = torch.cat(y, 1) if isinstance(y, tuple) else y
                grads.append((y, *torch.autograd.grad(y.sin().sum(), [x, *block.parameters()])))
        for a, b in zip(*grads, strict=True):
            close(a, b, 1e-9)


def test_activations():
    assert isinstance(CBL(1, 1).act, nn.LeakyReLU) and CBL(1, 1).act.negative_slope == 0.1
    assert isinstance(CBM(1, 1).act, cnnkernels.nn.Mish)
    assert {type(m.act) for m in CSPX(4, 8, 1).modules() if hasattr(m, "act")} == {cnnkernels.nn.Mish}
    assert {type(m.act) for m in ResX(4, 8, 1).modules() if hasattr(m, "act")} == {nn.LeakyReLU}


def test_fused_blocks_keep_their_class():
    torch.manual_seed(0)
    block, x = CBL(4, 8, 3).eval(), images(1, 8, channels=4)
    block.bn.running_mean.uniform_(-1, 1)
    folded = block.fuse()
    assert type(folded) is CBL and isinstance(folded.bn, nn.Identity) and folded.unfuse() is block
    close(folded(x), block(x), 1e-5)


def test_spp_joins_in_darknets_order():
    """Also of values below zero, where padding with zeros would show, and of NaN, which spreads over every window."""
    x = images(2, 17, 20, channels=3) - 5
    pools = [F.max_pool2d(x, k, 1, k // 2) for k in (13, 9, 5)]
    assert torch.equal(DarknetSPP()(x), torch.cat((*pools, x), 1))
    x[0, 0, 8, 8] = torch.nan
    assert DarknetSPP()(x)[0].isnan().sum((1, 2)).tolist()[::3] == [169, 81, 25, 1]


def test_residual_is_added_after_the_activation():
    unit = ResUnit(4, 2).eval()
    nn.init.zeros_(unit.conv2.conv.weight)
    unit.conv2.bn.bias.data.fill_(-1.0)
    x = images(1, 8, channels=4)
    torch.testing.assert_close(unit(x), x - 0.1)
