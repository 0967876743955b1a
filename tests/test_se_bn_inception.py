"""SE-BN-Inception, which no package has: its counts from the layer table, and the size of every block's result."""

import torch

import cnnkernels
from cnnkernels.models import create_model
from cnnkernels.models.cost import cost
from tests.networks.case import images

# The official prototxt: what each block returns at 224 x 224.
BLOCKS = {
    "3a": (256, 28),
    "3b": (320, 28),
    "3c": (576, 14),
    "4a": (576, 14),
    "4b": (576, 14),
    "4c": (608, 14),
    "4d": (608, 14),
    "4e": (1056, 7),
    "5a": (1024, 7),
    "5b": (1024, 7),
}


def on_meta(name):
    with torch.device("meta"):
        return create_model(name).eval()


def test_shapes_of_the_blocks():
    model, seen = on_meta("se_bn_inception"), {}
    for name in BLOCKS:
        gate = model.get_submodule(f"inception_{name}_se")
        gate.register_forward_hook(lambda m, x, y, name=name: seen.update({name: (y.shape[1], y.shape[2])}))
    with torch.no_grad():
        model(torch.zeros(1, 3, 224, 224, device="meta"))
    assert seen == BLOCKS


def test_counts():
    """Those of BN-Inception without its biases, and two layers with biases per block."""
    plain, with_gates = (cost(on_meta(name), (1, 3, 224, 224)) for name in ("bn_inception", "se_bn_inception"))
    biases = sum(m.bias.numel() for m in on_meta("bn_inception").modules() if isinstance(m, torch.nn.Conv2d))
    gates = sum(2 * c * (c // 16) for c, _ in BLOCKS.values())
    gate_biases = sum(c + c // 16 for c, _ in BLOCKS.values())
    assert with_gates.parameters == plain.parameters - biases + gates + gate_biases == 11_931_622
    assert with_gates.macs == plain.macs + gates
    assert round(with_gates.macs / 1e9, 3) == 2.033


def test_gates_are_the_op():
    model = create_model("se_bn_inception", num_classes=4).eval()
    with torch.no_grad(), cnnkernels.record_backends() as runs:
        model(images(1, 64))
    assert [(r.op, r.backend) for r in runs].count(("squeeze_excite", "cpu")) == len(BLOCKS)
