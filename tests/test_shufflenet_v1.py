"""The unit of ShuffleNet where its input is not what an activation left, and what the network refuses."""

import pytest
import torch

from cnnkernels.models import create_model
from cnnkernels.models.shufflenet_v1 import GroupShuffleUnit
from tests.networks.case import images


@pytest.mark.parametrize("c_out", [24, 48])
def test_unit_of_negative_inputs(c_out):
    torch.manual_seed(0)
    unit = GroupShuffleUnit(24, c_out, 3).eval()
    x = images(2, 9, 7, channels=24)
    with torch.no_grad():
        y = unit.c_shuffle(unit.compress_bn1(unit.compress_conv1(x)).relu())
        y = unit.expand_bn3(unit.expand_conv3(unit.dw_bn2(unit.dw_conv2(y))))
        expected = x + y if c_out == 24 else torch.cat((y, unit.avgpool(x)), 1)
        torch.testing.assert_close(unit(x), expected.relu(), rtol=1e-4, atol=1e-4)


def test_groups():
    with pytest.raises(ValueError, match="groups must be one of 1, 2, 3, 4, 8, got 5"):
        create_model("shufflenet_v1_g1", groups=5)
