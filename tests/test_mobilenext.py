"""MobileNeXt, which no package has: its counts from the layer table, and the sizes of its blocks' results."""

import math

import torch

from cnnkernels.models import create_model
from cnnkernels.models.cost import cost

# Table 2 of the paper: reduction, channels, blocks, stride.
TABLE = [
    *((2, 96, 1, 2), (6, 144, 1, 1), (6, 192, 3, 2), (6, 288, 3, 2)),
    *((6, 384, 4, 1), (6, 576, 4, 2), (6, 960, 3, 1), (6, 1280, 1, 1)),
]


def on_meta():
    with torch.device("meta"):
        return create_model("mobilenext").eval()


def test_counts():
    c, size = 32, 112
    parameters, macs = 3 * 32 * 9 + 2 * 32, 3 * 32 * 9 * size**2
    for reduction, out, blocks, stride in TABLE:
        for i in range(blocks):
            step = stride if i == 0 else 1
            middle = 16 * math.floor(max(c / reduction, out / 6) / 16 + 0.5)  # never more than 10 % below in this table
            alike = step == 1 and c == out
            if alike or reduction == 2:
                parameters, macs = parameters + c * 9 + 2 * c, macs + c * 9 * size**2
            parameters += c * middle + 2 * middle + middle * out + 2 * out
            macs += (c + out) * middle * size**2
            size //= step
            if alike or step == 2:
                parameters, macs = parameters + out * 9 + 2 * out, macs + out * 9 * size**2
            c = out
    parameters, macs = parameters + 1280 * 1000 + 1000, macs + 1280 * 1000
    counted = cost(on_meta(), (1, 3, 224, 224))
    assert (counted.parameters, counted.macs) == (parameters, macs)
    assert round(parameters / 1e6, 1) == 3.5 and round(macs / 1e9, 1) == 0.3  # the paper: 3.4 M and 300 M


def test_shapes():
    x, seen = torch.zeros(1, 3, 224, 224, device="meta"), []
    with torch.no_grad():
        for block in on_meta().features:
            x = block(x)
            seen.append(tuple(x.shape[1:3]))
    expected, size = [(32, 112)], 112
    for _, out, blocks, stride in TABLE:
        size //= stride
        expected += [(out, size)] * blocks
    assert seen == expected


def test_shortcuts():
    """Where the block's input and output are alike, and only there."""
    assert [b.adds for b in on_meta().features[1:]] == [i > 0 for _, _, blocks, _ in TABLE for i in range(blocks)]
