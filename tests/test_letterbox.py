"""Letterbox: the geometry against the definition written out, boxes there and back, marked rectangles measured."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cnnkernels.detection.letterbox import Letterbox, letterbox, normalise, prepare, resize
from cnnkernels.models.detection_network import Preprocessing

SIZES = [(480, 640), (640, 480), (33, 500), (1, 1000), (640, 640), (301, 401), (37, 41), (1080, 1920)]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def by_definition(height, width, size, stride, adaptive, upscale):
    """YOLOv5's rule with its own arithmetic: borders rounded by -/+ 0.1."""
    r = min(size / height, size / width)
    r = r if upscale else min(r, 1.0)
    new_w, new_h = max(round(width * r), 1), max(round(height * r), 1)
    dw, dh = size - new_w, size - new_h
    if adaptive:
        dw, dh = math.fmod(dw, stride), math.fmod(dh, stride)
    dw, dh = dw / 2, dh / 2
    top, bottom, left, right = round(dh - 0.1), round(dh + 0.1), round(dw - 0.1), round(dw + 0.1)
    return (new_h, new_w), top, left, (new_h + top + bottom, new_w + left + right)


@pytest.mark.parametrize("picture", SIZES)
@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("upscale", [True, False])
@pytest.mark.parametrize("size", [320, 416])
def test_geometry(picture, size, adaptive, upscale):
    box = Letterbox.fit(picture, size, adaptive=adaptive, upscale=upscale)
    expected = by_definition(*picture, size, 32, adaptive, upscale)
    assert (box.scaled_size, box.top, box.left, box.input_size) == expected
    assert adaptive or box.input_size == (size, size)
    assert all(side % 32 == 0 and side <= size for side in box.input_size)


@pytest.mark.parametrize("picture", SIZES)
@pytest.mark.parametrize("centred", [True, False])
def test_boxes_round_trip(picture, centred):
    height, width = picture
    corners = torch.rand(50, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    corners = corners.sort(dim=1)[0] * torch.tensor([width, height])
    boxes = corners.flatten(1)
    box = Letterbox.fit(picture, 416, centred=centred)
    torch.testing.assert_close(box.to_picture(box.to_input(boxes)), boxes, rtol=0, atol=1e-9)
    inside = box.to_input(boxes)
    assert (
        (inside >= 0).all() and (inside[:, 2] <= box.input_size[1]).all() and (inside[:, 3] <= box.input_size[0]).all()
    )
    whole = torch.tensor([[0.0, 0.0, width, height]])
    expected = [box.left, box.top, box.left + box.scaled_size[1], box.top + box.scaled_size[0]]
    assert box.to_input(whole).round(decimals=3).tolist() == [expected]
    beyond = torch.tensor([[-50.0, -50.0, 9000.0, 9000.0]])
    assert box.to_picture(beyond).tolist() == whole.tolist()
    assert (box.to_picture(beyond, clip=False)[0, :2] < 0).all()


@pytest.mark.parametrize("picture", [(480, 640), (301, 401), (60, 90)])
def test_a_marked_rectangle_is_where_the_box_says(picture):
    image = np.zeros((*picture, 3), np.uint8)
    image[20:50, 31:77] = 255
    boxed, place = letterbox(image, 416)
    ys, xs = np.nonzero(boxed[..., 0] >= 200)  # the padding is 114
    found = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=torch.float64)
    expected = place.to_input(torch.tensor([31, 20, 77, 50], dtype=torch.float64))
    assert (found - expected).abs().max() <= max(1.0, 0.5 * 416 / max(picture))


def test_padding_and_unscaled_pixels():
    image = noise(100, 64)
    boxed, place = letterbox(image, 128, upscale=False, fill=(1, 2, 3))
    assert boxed.shape == (128, 64, 3) and place.top == 14
    assert np.array_equal(boxed[14:114], image)
    assert (boxed[:14] == [1, 2, 3]).all() and (boxed[114:] == [1, 2, 3]).all()
    boxed, place = letterbox(image, 128, upscale=False, adaptive=False, centred=False)
    assert boxed.shape == (128, 128, 3) and (place.top, place.left) == (0, 0)
    assert np.array_equal(boxed[:100, :64], image)
    assert (boxed[100:] == 114).all() and (boxed[:, 64:] == 114).all()


@pytest.mark.parametrize("size", [(50, 70), (200, 133), (100, 90)])
def test_resize_is_bilinear(size):
    image = noise(100, 90)
    exact = F.interpolate(torch.from_numpy(image).permute(2, 0, 1)[None].double(), size, mode="bilinear")
    difference = torch.from_numpy(resize(image, size)).permute(2, 0, 1) - exact[0]
    assert difference.abs().max() <= 1.0  # torch rounds twice, after each of the two directions


def test_prepare_follows_preprocessing():
    image = noise(64, 64)
    rule = Preprocessing(bgr=True, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    x, place = prepare(image, rule, 64)
    expected = (image[..., ::-1] / 255.0 - np.array(rule.mean)) / np.array(rule.std)
    assert x.dtype == torch.float32 and place.input_size == (64, 64)
    np.testing.assert_allclose(x.permute(1, 2, 0).numpy(), expected, atol=1e-6)
    plain = normalise(image, Preprocessing(scale=1.0))
    assert np.array_equal(plain.permute(1, 2, 0).numpy(), image.astype(np.float32))


@pytest.mark.parametrize(
    ("image", "size", "message"),
    [
        (noise(8, 8), 100, "multiples of the stride 32"),
        (noise(8, 8), 0, "multiples of the stride"),
        (noise(8, 8), (64, 65), "multiples of the stride"),
        (noise(8, 8)[..., 0], 64, r"uint8 \[H, W, 3\]"),
        (noise(8, 8).astype(np.float32), 64, r"uint8 \[H, W, 3\]"),
        (noise(8, 8)[:0], 64, "no pixels"),
    ],
)
def test_bad_input(image, size, message):
    with pytest.raises(ValueError, match=message):
        letterbox(image, size)
