"""Augmentations: pixels against loops written out, and boxes against marked rectangles measured in the result."""

import colorsys

import numpy as np
import pytest

from cnnkernels.detection.augment import HsvJitter, MixUp, Mosaic, RandomAffine, YoloxMixUp, warp
from cnnkernels.detection.augment.colour import adjust_hsv
from cnnkernels.detection.sample import Sample

NONE = Sample(np.full((40, 50, 3), 9, np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
BLACK = Sample(np.zeros((90, 110, 3), np.uint8), NONE.boxes, NONE.labels)


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(height, width, seed=0):
    return rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def marked(seed, channel=0, size=(90, 110), label=3):
    """A black picture with one rectangle of one pure colour."""
    r, (height, width) = rng(seed), size
    x1, y1 = int(r.integers(3, width // 2)), int(r.integers(3, height // 2))
    x2, y2 = int(r.integers(x1 + 12, width)), int(r.integers(y1 + 12, height))
    image = np.zeros((*size, 3), np.uint8)
    image[y1:y2, x1:x2, channel] = 255
    return Sample(image, np.array([[x1, y1, x2, y2]], np.float32), np.array([label]))


def measured(image, channel=0):
    """Extent of what has the pure colour; the grey of the fill has all three."""
    others = np.delete(image, channel, axis=2).max(axis=2)
    ys, xs = np.nonzero((image[..., channel] >= 128) & (others < 20))
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


# ---- maps ------------------------------------------------------------------------------------------------------------


def drawn_by_loops(target, image, matrix):
    result, back = target.astype(np.float64), np.linalg.inv(matrix)
    height, width = image.shape[:2]
    for i in range(target.shape[0]):
        for j in range(target.shape[1]):
            u, v, _ = back @ (j + 0.5, i + 0.5, 1.0)
            if not (0 <= u < width and 0 <= v < height):
                continue
            x, y = u - 0.5, v - 0.5
            x0, y0 = int(np.floor(x)), int(np.floor(y))
            value = np.zeros(3)
            for a in (0, 1):
                for b in (0, 1):
                    share = (x - x0 if a else 1 - x + x0) * (y - y0 if b else 1 - y + y0)
                    value += share * image[min(max(y0 + b, 0), height - 1), min(max(x0 + a, 0), width - 1)]
            result[i, j] = value
    return result


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_draw(seed, upright):
    r = rng(seed)
    image, target = noise(13, 17, seed), noise(21, 18, seed + 50)
    matrix = np.eye(3) if upright else warp.shear(*r.uniform(-20, 20, 2)) @ warp.rotation(r.uniform(-90, 90))
    matrix = warp.scaling(r.choice([-1, 1]) * r.uniform(0.4, 1.7), r.uniform(0.4, 1.7)) @ matrix
    matrix = warp.translation(*r.uniform(5, 13, 2)) @ matrix @ warp.translation(-8, -6)
    expected = drawn_by_loops(target, image, matrix)
    assert (expected != target).mean() > 0.05
    result = target.copy()
    warp.draw(result, image, matrix)
    assert np.abs(result - expected).max() < 0.51


def test_draw_on_whole_pixels_copies():
    image, target = noise(8, 9), np.zeros((20, 20, 3), np.uint8)
    warp.draw(target, image, warp.translation(15, -3))
    assert np.array_equal(target[:5, 15:], image[3:, :5])
    assert not target[:, :15].any() and not target[5:].any()
    for x, y in ((20, 0), (-9, 0), (0, -8), (0, 20), (1e6, 0)):
        warp.draw(target[:0], image, warp.translation(x, y))
        before = target.copy()
        warp.draw(target, image, warp.translation(x, y))
        assert np.array_equal(target, before)


def test_rotation_is_clockwise():
    quarter = warp.translation(40, 0) @ warp.rotation(90)
    image = noise(40, 50)
    result = warp.canvas((50, 40), 0)
    warp.draw(result, image, quarter)
    assert np.array_equal(result, np.rot90(image, -1))
    box = warp.map_boxes(np.array([[3, 5, 10, 20]], np.float32), quarter)
    np.testing.assert_allclose(box, [[20, 3, 35, 10]], atol=1e-5)


# ---- boxes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([10, 10, 20, 20], [10, 10, 20, 20]),
        ([-10, -5, 20, 20], [0, 0, 20, 20]),
        ([90, 70, 110, 95], [90, 70, 100, 80]),
        ([10, 10, 12, 20], None),  # no side may be 2 pixels or less
        ([10, 10, 12.5, 20], [10, 10, 12.5, 20]),
        ([-36, 10, 4, 50], [0, 10, 4, 50]),  # a tenth of it
        ([-37, 10, 4, 50], None),
        ([0, 10, 400, 12.5], [0, 10, 100, 12.5]),
        ([200, 10, 220, 30], None),
        ([10, 10, 10, 30], None),
    ],
)
def test_clip_boxes(box, expected):
    boxes, labels = warp.clip_boxes(np.array([box], np.float32), np.array([7]), (80, 100))
    assert boxes.tolist() == ([] if expected is None else [expected])
    assert labels.tolist() == ([] if expected is None else [7])


def test_long_thin_boxes_are_dropped():
    boxes = np.array([[0, 10, 302, 13], [0, 10, 298, 13]], np.float32)
    kept, labels = warp.clip_boxes(boxes, np.array([0, 1]), (80, 400))
    assert labels.tolist() == [1] and kept.tolist() == [[0, 10, 298, 13]]


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("turned", [False, True])
def test_affine_boxes_are_where_the_rectangle_is(seed, turned):
    affine = RandomAffine(degrees=30, shear=10) if turned else RandomAffine()
    result = affine(marked(seed), rng(seed), (120, 130))
    assert result.image.shape == (120, 130, 3)
    for box in result.boxes:
        if not turned or (box[:2].min() > 0 and box[2] < 130 and box[3] < 120):  # a turned box that is cut is too large
            # A corner of a turned rectangle covers less than half of its last pixels.
            assert np.abs(box - measured(result.image)).max() <= (2.0 if turned else 0.5 + 1e-3)
            assert result.labels.tolist() == [3]


def test_affine_without_change_and_mirrored():
    sample = marked(0)
    still = RandomAffine(translate=0, scale=(1, 1), flip=0)(sample, rng())
    assert np.array_equal(still.image, sample.image) and np.array_equal(still.boxes, sample.boxes)
    mirrored = RandomAffine(translate=0, scale=(1, 1), flip=1)(sample, rng())
    assert np.array_equal(mirrored.image, sample.image[:, ::-1])
    assert mirrored.boxes[0].tolist() == measured(mirrored.image).tolist()


# ---- mosaic ----------------------------------------------------------------------------------------------------------


def test_mosaic_without_scaling_copies_pixels():
    size = (90, 110)
    four = [Sample(noise(*size, seed), marked(seed).boxes, np.array([seed])) for seed in range(4)]
    corners = set()
    for seed in range(10):
        image, boxes, labels = Mosaic(size, RandomAffine(translate=0, scale=(1, 1), flip=0))(four, rng(seed))
        # The corner, found by its pixels: in the middle half of the canvas, so anywhere in the result.
        found = [
            (i, j)
            for i in range(size[0] + 1)
            for j in range(size[1] + 1)
            if np.array_equal(image[:i, :j], four[0].image[size[0] - i :, size[1] - j :])
            and np.array_equal(image[:i, j:], four[1].image[size[0] - i :, : size[1] - j])
            and np.array_equal(image[i:, :j], four[2].image[: size[0] - i, size[1] - j :])
            and np.array_equal(image[i:, j:], four[3].image[: size[0] - i, : size[1] - j])
        ]
        assert len(found) == 1
        corners.add(found[0])
        i, j = found[0]
        shift = np.array([[j, i]] * 4) - [[size[1], size[0]], [0, size[0]], [size[1], 0], [0, 0]]
        moved = np.concatenate([s.boxes for s in four]) + np.tile(shift, 2)
        expected = warp.clip_boxes(moved.astype(np.float32), np.arange(4), size)
        assert np.array_equal(boxes, expected[0]) and np.array_equal(labels, expected[1])
    assert len(corners) == 10


@pytest.mark.parametrize("seed", range(25))
def test_mosaic_boxes_are_where_the_rectangles_are(seed):
    sizes = [(90, 110), (60, 60), (128, 64), (300, 200)]
    four = [marked(seed * 4 + k, channel=k % 3, size=sizes[k], label=k) for k in range(3)] + [NONE]
    result = Mosaic((128, 160))(four, rng(seed))
    assert result.image.shape == (128, 160, 3) and len(result.boxes) == len(result.labels)
    for box, label in zip(result.boxes, result.labels.tolist(), strict=True):
        assert np.abs(box - measured(result.image, channel=label)).max() <= 0.5 + 1e-3


def test_mosaic_keeps_most_objects():
    found = sum(len(Mosaic((96, 96))([marked(k) for k in range(4)], rng(seed)).boxes) for seed in range(50))
    assert 40 < found < 160  # of 200; about a quarter of the canvas is seen


def test_mosaic_of_nothing():
    result = Mosaic((64, 64))([NONE] * 4, rng())
    assert result.boxes.shape == (0, 4) and result.labels.shape == (0,)
    assert set(np.unique(result.image)) <= {9, 114}


# ---- mixup -----------------------------------------------------------------------------------------------------------


def test_mixup():
    first, second = marked(1, label=1), marked(2, label=2)
    result = MixUp()(first, second, rng(3))
    share = rng(3).beta(32, 32)
    np.testing.assert_allclose(result.image, share * first.image + (1 - share) * second.image, atol=0.51)
    assert np.array_equal(result.boxes, np.concatenate([first.boxes, second.boxes])) and result.labels.tolist() == [
        1,
        2,
    ]
    white = Sample(first.image | 255, *first[1:])
    shares = [MixUp()(white, BLACK, rng(seed)).image[0, 0, 0] / 255 for seed in range(300)]
    assert abs(np.mean(shares) - 0.5) < 0.02 and abs(np.std(shares) - 1 / np.sqrt(4 * 65)) < 0.01


@pytest.mark.parametrize("seed", range(20))
def test_yolox_mixup(seed):
    result = YoloxMixUp()(BLACK, marked(seed, size=(70, 100)), rng(seed))
    assert result.image.shape == BLACK.image.shape
    assert result.image.max() <= 128
    doubled = (result.image.astype(int) * 2).clip(0, 255)
    for box in result.boxes:
        assert np.abs(box - measured(doubled)).max() <= 0.5 + 1e-3


def test_yolox_mixup_scales_and_mirrors():
    same = YoloxMixUp(jitter=(1, 1), flip=0)(BLACK, marked(0), rng())
    assert np.array_equal(same.boxes, marked(0).boxes)
    assert np.array_equal(same.image, marked(0).image // 2 + marked(0).image % 2)
    mirrored = YoloxMixUp(jitter=(1, 1), flip=1)(BLACK, marked(0), rng())
    assert np.array_equal(mirrored.image, (marked(0).image // 2 + marked(0).image % 2)[:, ::-1])
    smaller = YoloxMixUp(jitter=(0.5, 0.5), flip=0)(BLACK, marked(0), rng())
    assert (smaller.image[46:] == 57).all() and (smaller.image[:, 56:] == 57).all()  # half of 114
    sizes = {round(float(np.diff(YoloxMixUp()(BLACK, marked(0), rng(s)).boxes[:, [0, 2]]).sum()), 2) for s in range(20)}
    assert len(sizes) > 10


# ---- colour ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turn", "saturation", "value"), [(0.1, 1, 1), (0, 0.4, 1), (0, 1, 1.3), (-0.3, 1.6, 0.7), (0.9, 2, 1)]
)
def test_hsv(turn, saturation, value):
    image = noise(12, 15)
    image[0], image[1, :5], image[1, 5:10], image[2] = 0, 255, 77, (255, 0, 0)
    expected = np.zeros_like(image, np.float64)
    for i, j in np.ndindex(12, 15):
        h, s, v = colorsys.rgb_to_hsv(*(image[i, j] / 255))
        expected[i, j] = np.array(colorsys.hsv_to_rgb((h + turn) % 1, min(s * saturation, 1), min(v * value, 1))) * 255
    assert np.abs(adjust_hsv(image, turn, saturation, value) - expected).max() < 0.51


def test_hsv_jitter():
    sample = Sample(noise(20, 20), *marked(0)[1:])
    assert np.array_equal(HsvJitter(0, 0, 0)(sample, rng()).image, sample.image)
    result = HsvJitter()(sample, rng())
    assert result.boxes is sample.boxes and result.labels is sample.labels
    assert (result.image != sample.image).any()
    grey = Sample(np.full((1, 1, 3), 100, np.uint8), *sample[1:])
    values = [HsvJitter(0, 0, 0.4)(grey, rng(seed)).image[0, 0, 0] for seed in range(200)]
    assert 60 <= min(values) < 65 and 135 < max(values) <= 140


# ---- all of them -----------------------------------------------------------------------------------------------------

EACH = {
    "mosaic": lambda r: Mosaic((64, 64), RandomAffine(degrees=10))([marked(k) for k in range(4)], r),
    "affine": lambda r: RandomAffine(degrees=10)(marked(0), r),
    "mixup": lambda r: MixUp()(marked(0), marked(1), r),
    "yolox": lambda r: YoloxMixUp()(marked(0), marked(1), r),
    "hsv": lambda r: HsvJitter()(marked(0), r),
}


@pytest.mark.parametrize("name", EACH)
def test_the_same_generator_gives_the_same(name):
    first, again, other = (EACH[name](rng(seed)) for seed in (5, 5, 6))
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a, b) and a.dtype == b.dtype
    assert not np.array_equal(first.image, other.image)
    assert first.image.dtype == np.uint8 and first.boxes.dtype == np.float32 and first.labels.dtype == np.int64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mosaic((64, 64))([NONE] * 3, rng()), "takes four samples, got 3"),
        (lambda: MixUp()(NONE, marked(0), rng()), "pictures of one size"),
        (lambda: RandomAffine(scale=(0, 1)), "scale must be"),
        (lambda: RandomAffine(scale=(2, 1)), "scale must be"),
        (lambda: RandomAffine(flip=2), "flip must be from 0 to 1"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
