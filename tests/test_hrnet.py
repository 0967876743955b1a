"""HRNet's feature maps beside timm's, and its trunk as the pose networks use it."""

import pytest
import torch
from torch import nn

from cnnkernels.models import create_model
from cnnkernels.models.hrnet import HighResolutionModule, HRNetTrunk, Stages
from tests.networks.case import calibrate, images, randomise
from tests.oracles import timm_model


def test_feature_maps_as_timm():
    whole = create_model("hrnet_w18_small_v1")
    randomise(whole)
    calibrate(whole, 64)
    ours, other = create_model("hrnet_w18_small_v1", features_only=True).eval(), timm_model("hrnet_w18_small").eval()
    other.load_state_dict(whole.state_dict(), strict=True)
    ours.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith(ours.left_out)}, strict=True)
    assert (ours.strides, ours.channels) == ([2, 4, 8, 16, 32], [64, 128, 256, 512, 1024])
    x = images(1, 64, 96)
    with torch.no_grad():
        expected = other.forward_intermediates(x, intermediates_only=True)
        for a, b in zip(ours(x), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())
        first = create_model("hrnet_w18_small_v1", features_only=True, out_indices=(0,)).eval()
        first.load_state_dict(ours.state_dict(), strict=True)
        torch.testing.assert_close(first(x)[0], expected[0], rtol=1e-4, atol=1e-4 * expected[0].abs().max().item())


@pytest.mark.parametrize(("width", "joints", "parameters"), [(32, 17, 28_536_113), (48, 16, 63_595_696)])
def test_trunk_of_the_pose_networks(width, joints, parameters):
    """Published size and number of keys of deep-high-resolution-net.pytorch's networks: this trunk and one convolution."""
    with torch.device("meta"):
        trunk = HRNetTrunk()
        channels = trunk.add_trunk(Stages(width), 3, multi_scale_output=False)
        trunk.final_layer = nn.Conv2d(width, joints, 1)
        trunk.num_classes = 1
        trunk.complete([(64, 2)])
        maps = trunk.eval().branches(trunk.stem(torch.zeros(1, 3, 256, 192)))
    assert channels == [width]
    assert sum(p.numel() for p in trunk.parameters()) == parameters
    assert len(trunk.state_dict()) == 1754
    assert [m.shape for m in maps] == [(1, width, 64, 48)]


def test_first_branch_is_the_same_alone():
    torch.manual_seed(0)
    module, alone = HighResolutionModule([4, 8, 16], 1).eval(), HighResolutionModule([4, 8, 16], 1, False).eval()
    alone.load_state_dict({k: v for k, v in module.state_dict().items() if k in alone.state_dict()}, strict=True)
    x = [torch.randn(2, c, s, s) for c, s in ((4, 16), (8, 8), (16, 4))]
    kept = [t.clone() for t in x]
    with torch.no_grad():
        every, (first,) = module(x), alone(x)
    assert [t.shape for t in every] == [t.shape for t in x]
    torch.testing.assert_close(first, every[0])
    assert all(torch.equal(a, b) for a, b in zip(x, kept, strict=True))
