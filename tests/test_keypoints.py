"""Heat maps to key points, beside the authors' procedures written out; the flip test."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from cnnkernels.detection.keypoints import (
    COCO_PAIRS,
    METHODS,
    MPII_PAIRS,
    decode_heatmaps,
    flip_heatmaps,
    flip_test,
)
from tests.gaussians import SIZE, maps_of, spread
from tests.oracles import pytorchcv_model

methods = pytest.mark.parametrize("method", METHODS)


# ---- Decoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "bound"), [("argmax", 0.5), ("quarter", 0.25), ("dark", 2e-3)])
@pytest.mark.parametrize("sigma", [2.0, 3.0])
def test_subpixel_centres(method, bound, sigma):
    """The nearest pixel; then half of that; DARK is exact but for what smoothing in whole pixels leaves."""
    points = spread()
    found, scores = decode_heatmaps(maps_of(points, sigma), method=method)
    error = (found - points).abs().max().item()
    assert error <= bound + 1e-12
    assert error > 0.9 * bound or method == "dark"  # the bound is the method's, not a loose one
    assert ((scores > 0.85) & (scores <= 1)).all()


def test_dark_without_smoothing_is_exact():
    points = spread()
    found, _ = decode_heatmaps(maps_of(points), method="dark", blur=1)
    torch.testing.assert_close(found, points, rtol=0, atol=1e-9)


def test_dark_in_float32():
    points = spread().float()
    found, _ = decode_heatmaps(maps_of(points), method="dark")
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, points, rtol=0, atol=2e-3)


def one_by_one(heatmap, method, blur):
    """The authors' procedures, one map at a time: get_final_preds of Sun et al. and of Zhang et al."""
    height, width = heatmap.shape
    y, x = np.unravel_index(np.argmax(heatmap), heatmap.shape)
    if heatmap[y, x] <= 0:
        return (0.0, 0.0)
    if method == "quarter" and 1 < x < width - 1 and 1 < y < height - 1:
        dx, dy = heatmap[y, x + 1] - heatmap[y, x - 1], heatmap[y + 1, x] - heatmap[y - 1, x]
        return (x + 0.25 * np.sign(dx), y + 0.25 * np.sign(dy))
    if method == "dark" and 1 < x < width - 2 and 1 < y < height - 2:
        sigma, half = 0.3 * ((blur - 1) * 0.5 - 1) + 0.8, blur // 2
        kernel = np.exp(-(np.arange(-half, half + 1.0) ** 2) / (2 * sigma**2))
        kernel /= kernel.sum()
        padded = np.pad(heatmap, half)
        smooth = sum(
            kernel[i] * kernel[j] * padded[i : i + height, j : j + width] for i in range(blur) for j in range(blur)
        )
        f = np.log(np.maximum(smooth * heatmap.max() / smooth.max(), 1e-10))
        gradient = 0.5 * np.array([f[y, x + 1] - f[y, x - 1], f[y + 1, x] - f[y - 1, x]])
        hxy = f[y + 1, x + 1] - f[y - 1, x + 1] - f[y + 1, x - 1] + f[y - 1, x - 1]
        hxx, hyy = f[y, x + 2] - 2 * f[y, x] + f[y, x - 2], f[y + 2, x] - 2 * f[y, x] + f[y - 2, x]
        return np.array((x, y)) - np.linalg.solve(0.25 * np.array([[hxx, hxy], [hxy, hyy]]), gradient)
    return (float(x), float(y))


@methods
@pytest.mark.parametrize("blur", [11, 17])
def test_as_the_authors_one_by_one(method, blur):
    """Noisy Gaussians, also at the borders and beyond them."""
    points = spread(margin=-1.5, seed=1)
    noise = torch.rand(*points.shape[:2], *SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    heatmaps = maps_of(points) + 0.02 * noise
    found, scores = decode_heatmaps(heatmaps, method=method, blur=blur)
    expected = [[one_by_one(h.numpy(), method, blur) for h in person] for person in heatmaps]
    torch.testing.assert_close(found, torch.tensor(np.array(expected)), rtol=0, atol=1e-9)
    assert torch.equal(scores, heatmaps.amax((2, 3)))


def test_quarter_as_pytorchcv():
    """It shifts from the second pixel too, which the authors do not: no maximum there."""
    heatmaps = maps_of(spread(2)).float()
    detect = pytorchcv_model("simplepose_resnet18_coco").heatmap_max_det
    found, scores = decode_heatmaps(heatmaps)
    torch.testing.assert_close(torch.cat((found, scores[..., None]), 2), detect(heatmaps))


@methods
def test_first_of_equal_maxima(method):
    heatmaps = torch.zeros(1, 1, 12, 12)
    heatmaps[0, 0, 4, 8] = heatmaps[0, 0, 8, 4] = 1
    found, _ = decode_heatmaps(heatmaps, method=method, blur=1)
    assert found[0, 0].round().tolist() == [8, 4]


@methods
def test_constant_map_has_no_direction(method):
    found, scores = decode_heatmaps(torch.full((1, 1, 9, 9), 0.5), method=method)
    assert (found.tolist(), scores.tolist()) == ([[[0.0, 0.0]]], [[0.5]])


@methods
def test_map_without_a_key_point(method):
    nothing = torch.stack((torch.zeros(9, 9), torch.full((9, 9), -1.0), torch.full((9, 9), math.nan)))[None]
    found, scores = decode_heatmaps(nothing, method=method)
    assert not found.any()
    assert scores.tolist() == [[0, -1, 0]]


@methods
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers_count_as_zero(method, value):
    heatmaps = maps_of(spread(2, 3))
    x, y = decode_heatmaps(heatmaps, method="argmax")[0].long().unbind(2)
    broken = heatmaps.clone()
    broken[0, 0, y[0, 0], x[0, 0] + 1] = value  # beside the maximum
    broken[1, 2, 0, 0] = value
    clean = broken.nan_to_num(0, 0, 0)
    for a, b in zip(decode_heatmaps(broken, method=method), decode_heatmaps(clean, method=method), strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, b)


def test_dark_stays_near():
    """Ridges, saddles and plateaus, where a Newton step may lead anywhere."""
    generator = torch.Generator().manual_seed(3)
    wild = torch.rand(50, 17, 16, 16, generator=generator) ** 8
    pixel, _ = decode_heatmaps(wild, method="argmax")
    found, _ = decode_heatmaps(wild, method="dark", blur=1)
    assert (found - pixel).abs().max() <= 2
    assert (found - pixel).abs().max() > 0.5


@methods
@pytest.mark.parametrize("shape", [(0, 17, 64, 48), (3, 0, 64, 48), (2, 3, 1, 1), (1, 1, 1, 7), (1, 2, 2, 3)])
def test_few_or_no_people_and_pixels(method, shape):
    found, scores = decode_heatmaps(torch.ones(shape), method=method)
    assert (found.shape, scores.shape) == ((*shape[:2], 2), shape[:2])
    assert not found.any()


@methods
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_and_layouts(method, dtype):
    heatmaps = maps_of(spread(2)).to(dtype)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    expected = decode_heatmaps(heatmaps.to(wide), method=method)
    kept = heatmaps.clone()
    for same in (
        heatmaps,
        heatmaps.contiguous(memory_format=torch.channels_last),
        heatmaps.repeat(1, 1, 1, 2)[..., : SIZE[1]],
    ):
        for a, b in zip(decode_heatmaps(same, method=method), expected, strict=True):
            assert a.dtype is wide
            torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    assert torch.equal(heatmaps, kept)


@methods
def test_compiles_to_one_graph(method):
    compiled = torch.compile(decode_heatmaps, backend="aot_eager", fullgraph=True)
    for n in (2, 3):
        heatmaps = maps_of(spread(n)).float()
        for a, b in zip(compiled(heatmaps, method=method), decode_heatmaps(heatmaps, method=method), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("heatmaps", "kw", "error", "message"),
    [
        (torch.zeros(2, 3, 4), {}, ValueError, r"\[N, K, H, W\]"),
        (torch.zeros(1, 2, 0, 4), {}, ValueError, "with pixels"),
        (torch.zeros(1, 2, 4, 4, dtype=torch.int64), {}, TypeError, "floating-point"),
        (torch.zeros(1, 2, 4, 4), {"method": "best"}, ValueError, "argmax, quarter, dark"),
        (torch.zeros(1, 2, 4, 4), {"method": "dark", "blur": 4}, ValueError, "blur must be odd"),
    ],
)
def test_bad_heatmaps(heatmaps, kw, error, message):
    with pytest.raises(error, match=message):
        decode_heatmaps(heatmaps, **kw)


# ---- Flip test -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pairs", "k"), [(COCO_PAIRS, 17), (MPII_PAIRS, 16)])
def test_flipping(pairs, k):
    """The map of a mirrored person, mirrored back; twice is once."""
    points = spread(2, k)
    mirrored = points.clone()
    mirrored[..., 0] = SIZE[1] - 1 - mirrored[..., 0]
    for a, b in pairs:
        mirrored[:, [a, b]] = mirrored[:, [b, a]]
    heatmaps = maps_of(points)
    back = flip_heatmaps(maps_of(mirrored), pairs)
    torch.testing.assert_close(back, heatmaps)
    assert torch.equal(flip_heatmaps(flip_heatmaps(heatmaps, pairs), pairs), heatmaps)
    assert len({i for pair in pairs for i in pair}) == 2 * len(pairs) <= k


def test_shift_moves_one_pixel_to_the_right():
    heatmaps = torch.arange(5.0).expand(1, 2, 3, 5)
    assert flip_heatmaps(heatmaps, [(0, 1)], shift=True)[0, 0, 0].tolist() == [4, 4, 3, 2, 1]


def test_flip_test_of_a_network_that_knows_left_from_right():
    """One that marks bright pixels: in channel 0 on the left of the person, in 1 on the right."""

    class Marks(nn.Module):
        def forward(self, x):
            return torch.cat((x, torch.zeros_like(x)), 1)

    x = torch.arange(4.0).view(1, 1, 1, 4)
    y = flip_test(Marks(), x, [(0, 1)], shift=False)
    assert y.tolist() == [[[[0, 0.5, 1, 1.5]], [[0, 0.5, 1, 1.5]]]]
    shifted = flip_test(Marks(), x, [(0, 1)])
    assert shifted.tolist() == [[[[0, 0.5, 1, 1.5]], [[0, 0, 0.5, 1]]]]


@pytest.mark.parametrize("pairs", [[(0, 2)], [(0, 1), (1, 0)], [(-1, 0)], [(0, 0)]])
def test_bad_pairs(pairs):
    with pytest.raises(ValueError, match="pairs must be"):
        flip_heatmaps(torch.zeros(1, 2, 3, 3), pairs)
