"""Darknet's weight files: their order against a network computed as its configuration file says, and wrong files."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cnnkernels.models import create_model
from cnnkernels.models.darknet import Darknet
from cnnkernels.models.darknet_weights import load_darknet_weights, save_darknet_weights
from tests.networks.case import images, randomise

OLD, NEW = (0, 1, 0), (0, 2, 5)


def small(**kw):
    return Darknet(depths=(1, 2), **{"num_classes": 5, **kw}).eval()


def random(**kw):
    model = small(**kw)
    randomise(model)
    for name, b in model.named_buffers():
        if b.is_floating_point():
            b.uniform_(0.5, 2) if "var" in name else b.normal_()
    return model


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def write(path, numbers, version=NEW):
    seen = np.array([7], "<i8" if version == NEW else "<i4")
    path.write_bytes(np.array(version, "<i4").tobytes() + seen.tobytes() + np.asarray(numbers, "<f4").tobytes())
    return path


class Net:
    """Convolutions that take their numbers from a list as Darknet's parser does: each one the next few."""

    def __init__(self, numbers):
        self.numbers, self.at = torch.tensor(numbers), 0

    def take(self, *shape):
        n = int(np.prod(shape))
        self.at += n
        return self.numbers[self.at - n : self.at].view(shape)

    def conv(self, x, filters, size, stride=1):
        beta, gamma, mean, var = (self.take(filters) for _ in range(4))
        x = F.conv2d(x, self.take(filters, x.shape[1], size, size), None, stride, size // 2)
        return F.leaky_relu(F.batch_norm(x, mean, var, gamma, beta), 0.1)

    def block(self, x, hidden):
        return x + self.conv(self.conv(x, hidden, 1), x.shape[1], 3)

    def cross_stage(self, x, filters, half, hidden, depth):
        down = self.conv(x, filters, 3, 2)
        cross = self.conv(down, half, 1)
        x = self.conv(down, half, 1)  # [route] layers=-2
        for _ in range(depth):
            x = self.block(x, hidden)
        x = self.conv(x, half, 1)
        return self.conv(torch.cat((x, cross), 1), filters, 1)  # [route] layers=-1,-7

    def stage(self, x, filters, depth):
        x = self.conv(x, filters, 3, 2)
        for _ in range(depth):
            x = self.block(x, filters // 2)
        return x

    def classify(self, x, classes):
        bias = self.take(classes)
        return F.conv2d(x.mean((2, 3), keepdim=True), self.take(classes, x.shape[1], 1, 1), bias).flatten(1)


def as_configured(x, numbers, csp):
    net = Net(numbers)
    x = net.conv(x, 32, 3)
    if csp:
        x = net.cross_stage(net.cross_stage(x, 64, 64, 32, 1), 128, 64, 64, 2)
    else:
        x = net.stage(net.stage(x, 64, 1), 128, 2)
    y = net.classify(x, 5)
    assert net.at == len(numbers)
    return y


@pytest.mark.parametrize("csp", [False, True])
@pytest.mark.parametrize("version", [OLD, NEW])
def test_order_of_the_configuration_file(csp, version, tmp_path):
    generator = np.random.default_rng(0)
    model = small(csp=csp)
    n = sum(v.numel() for k, v in model.state_dict().items() if "tracked" not in k)
    numbers = generator.uniform(0.02, 0.1, n).astype(np.float32)
    numbers *= 1 + (np.arange(n) % 3)  # no variance is negative, and neighbours differ
    load_darknet_weights(model, write(tmp_path / "a.weights", numbers, version))
    x = images(1, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x), as_configured(x, numbers, csp), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("csp", [False, True])
def test_round_trip(csp, tmp_path):
    model, other = random(csp=csp), small(csp=csp)
    save_darknet_weights(model, tmp_path / "a.weights", seen=12)
    load_darknet_weights(other, tmp_path / "a.weights")
    equal(model, other)
    header = np.fromfile(tmp_path / "a.weights", "<i4", 5)
    assert header.tolist() == [0, 2, 0, 12, 0]


@pytest.mark.parametrize("name", ["darknet53", "cspdarknet53"])
def test_create_model(name, tmp_path):
    """Whole, and the parts of a network that ask less than the file has."""
    path = tmp_path / "a.weights"
    model = create_model(name, num_classes=3)
    randomise(model)
    save_darknet_weights(model, path)
    equal(create_model(name, pretrained=path, num_classes=3), model)
    for kw in ({"features_only": True, "out_indices": (1,)}, {"num_classes": 0}):
        part, whole = create_model(name, pretrained=path, **kw).state_dict(), model.state_dict()
        assert all(torch.equal(v, whole[k]) for k, v in part.items())
    with pytest.raises(ValueError, match=r"head.fc.weight .file .3, 1024., model .1000, 1024"):
        create_model(name, pretrained=path)
    with pytest.raises(ValueError, match="layout is for files with keys"):
        create_model(name, pretrained=path, layout="timm")
    with pytest.raises(ValueError, match=r"for Darknet networks, got ResNet"):
        create_model("resnet18", pretrained=path)


def test_trunk_alone(tmp_path):
    """As in darknet53.conv.74: enough for a network without a classifier, and no more."""
    model = random(num_classes=0)
    path = tmp_path / "darknet.conv.9"
    save_darknet_weights(model, path)
    maps = small(features_only=True)
    load_darknet_weights(maps, path)
    equal(maps, model)
    with pytest.raises(ValueError, match=r"2 missing: head.fc.weight, head.fc.bias"):
        load_darknet_weights(small(), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:-4], "does not fit Darknet: it has .* numbers"),
        (lambda raw: raw + bytes(4), "does not fit Darknet: it has .* numbers"),
        (lambda raw: raw[:400], "does not fit Darknet: it has .* numbers"),
        (lambda raw: raw[:-1], "not a whole Darknet weight file"),
        (lambda raw: raw[:16], "not a whole Darknet weight file"),
        (lambda raw: raw[:7], "not a Darknet weight file"),
        (lambda raw: b"", "not a Darknet weight file"),
        (lambda raw: b"PK\x03\x04" + raw[4:], "not a Darknet weight file"),
        (lambda raw: raw[:20] + bytes(4) + raw[20:-4], "negative variances"),
    ],
)
def test_wrong_files(change, message, tmp_path):
    model, path = random(), tmp_path / "a.weights"
    save_darknet_weights(random(), path)
    path.write_bytes(change(path.read_bytes()))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_darknet_weights(model, path)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        create_model("darknet53", pretrained=tmp_path / "a.weights")
