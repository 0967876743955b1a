"""timm's files in our networks: keys, values, the way back, and errors that say which layout a file has."""

import pytest
import torch

from cnnkernels.models import create_model
from cnnkernels.models.convert import convert, to_layout
from tests.networks.case import calibrate, images, randomise
from tests.oracles import timm_model

# ours, timm's, and the eps that timm's has where ours differs
NETWORKS = [
    ("efficientnet_b0", "efficientnet_b0", {}),
    ("efficientnet_b5", "efficientnet_b5", {"bn_eps": 1e-3}),
    ("tf_efficientnet_b1", "tf_efficientnet_b1", {}),
    ("efficientnet_lite0", "efficientnet_lite0", {}),
    ("mobilenet_v2", "mobilenetv2_100", {}),
    ("mobilenet_v3_large", "mobilenetv3_large_100", {"bn_eps": 1e-3}),
    ("mobilenet_v3_small", "mobilenetv3_small_100", {"bn_eps": 1e-3}),
    ("vgg11_bn", "vgg11_bn", {}),
]
each = pytest.mark.parametrize(("name", "timm_name", "settings"), NETWORKS, ids=[n for n, _, _ in NETWORKS])


@each
def test_weights_of_timm(name, timm_name, settings, tmp_path):
    theirs = timm_model(timm_name, num_classes=10, **settings)
    randomise(theirs)
    calibrate(theirs, 96)
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    ours = create_model(name, pretrained=tmp_path / "timm.pth", layout="timm", num_classes=10).eval()
    x = images(1, 96)
    with torch.no_grad():
        y, z = ours(x), theirs.eval()(x)
    torch.testing.assert_close(y, z, rtol=1e-4, atol=1e-4 * z.abs().max().item())


@each
def test_round_trip(name, timm_name, settings):
    theirs = timm_model(timm_name).state_dict()
    ours = convert(name, theirs)
    create_model(name).load_state_dict(ours, strict=True)
    back = to_layout(name, ours)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[k], v) for k, v in theirs.items())


def test_parts_of_a_network(tmp_path):
    torch.save(timm_model("mobilenetv3_small_100").state_dict(), tmp_path / "timm.pth")
    whole = create_model("mobilenet_v3_small", pretrained=tmp_path / "timm.pth", layout="timm")
    for kw in ({"features_only": True}, {"features_only": True, "out_indices": (1,)}, {"num_classes": 0}):
        part = create_model("mobilenet_v3_small", pretrained=tmp_path / "timm.pth", layout="timm", **kw)
        assert all(torch.equal(v, whole.state_dict()[k]) for k, v in part.state_dict().items())


def test_wrong_layout(tmp_path):
    ours = create_model("mobilenet_v2").state_dict()
    torch.save(to_layout("mobilenet_v2", ours), tmp_path / "timm.pth")
    with pytest.raises(ValueError, match=r"unexpected: conv_stem\.weight") as error:
        create_model("mobilenet_v2", pretrained=tmp_path / "timm.pth")
    assert "the file's keys are of layout='timm'" in str(error.value)
    torch.save(ours, tmp_path / "ours.pth")
    with pytest.raises(ValueError, match=r"missing: conv_stem\.weight") as error:
        create_model("mobilenet_v2", pretrained=tmp_path / "ours.pth", layout="timm")
    assert "our own layout, layout=None" in str(error.value)
    with pytest.raises(ValueError, match="not of mobilenet_v2's layout 'timm': features"):
        convert("mobilenet_v2", ours)


def test_keys_in_errors_are_the_files(tmp_path):
    state = to_layout("efficientnet_lite0", create_model("efficientnet_lite0").state_dict())
    del state["blocks.1.1.conv_pwl.weight"]
    state["conv_stem.weight"] = torch.zeros(1)
    state["blocks.0.0.se.conv_reduce.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "timm.pth")
    with pytest.raises(ValueError, match="does not fit") as error:
        create_model("efficientnet_lite0", pretrained=tmp_path / "timm.pth", layout="timm")
    message = str(error.value)
    assert "1 missing: blocks.1.1.conv_pwl.weight" in message
    assert "1 unexpected: blocks.0.0.se.conv_reduce.weight" in message
    assert "1 of another shape: conv_stem.weight (file [1], model [32, 3, 3, 3])" in message


def test_unknown_layout(tmp_path):
    state = create_model("squeezenet1_1").state_dict()
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="SqueezeNet has no layout 'timm' beside its own; there are: none"):
        create_model("squeezenet1_1", pretrained=tmp_path / "weights.pth", layout="timm")
    with pytest.raises(ValueError, match="EfficientNet has no layout 'keras' beside its own; there are: timm"):
        convert("efficientnet_b0", {}, layout="keras")


def test_se_inception(tmp_path):
    """The public code's keys; its layer order is torchvision's."""
    ours = create_model("se_inception_v3", num_classes=5)
    state = {f"model.{k}": v for k, v in ours.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    again = create_model("se_inception_v3", num_classes=5, pretrained=tmp_path / "weights.pth", layout="moskomule")
    assert all(torch.equal(v, ours.state_dict()[k]) for k, v in again.state_dict().items())
    assert to_layout("se_inception_v3", ours.state_dict(), "moskomule").keys() == state.keys()
    assert state["model.Mixed_7c.SELayer.fc.0.weight"].shape == (128, 2048)
    with pytest.raises(ValueError, match="the file's keys are of layout='moskomule'"):
        create_model("se_inception_v3", num_classes=5, pretrained=tmp_path / "weights.pth")
