"""Heat maps to key points and back, regions of pictures, the loss, the metrics: against their definitions written out."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from cnnkernels.detection.heatmap_loss import HeatmapLoss, gaussian_heatmaps
from cnnkernels.detection.keypoint_metrics import COCO_SIGMAS, oks, pckh
from cnnkernels.detection.keypoints import (
    COCO_PAIRS,
    METHODS,
    MPII_PAIRS,
    decode_heatmaps,
    flip_heatmaps,
    flip_test,
)
from cnnkernels.detection.pose_regions import PoseRegions
from tests.oracles import pytorchcv_model

methods = pytest.mark.parametrize("method", METHODS)
SIZE = (64, 48)


def spread(n=6, k=17, margin=6.0, seed=0):
    """Key points [n, k, 2] at sub-pixel places of a map of SIZE."""
    generator = torch.Generator().manual_seed(seed)
    room = torch.tensor((SIZE[1], SIZE[0])) - 1 - 2 * margin
    return margin + torch.rand(n, k, 2, generator=generator, dtype=torch.float64) * room


def maps_of(points, sigma=2.0, rounded=False):
    return gaussian_heatmaps(points, torch.ones(points.shape[:2]), SIZE, sigma, rounded=rounded)[0]


# ---- Decoding ----------------------------------------------------------------------------------------------------------


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


# ---- Flip test -----------------------------------------------------------------------------------------------------------


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


# ---- Regions -------------------------------------------------------------------------------------------------------------


def three_points(centre, width, degrees, size):
    """The authors' affine map of the picture to a map of ``size``: [2, 3], solved from three pairs of points."""
    turn = math.radians(degrees)
    towards = np.array([0.5 * width * math.sin(turn), -0.5 * width * math.cos(turn)])
    middle = np.array([size[1] / 2, size[0] / 2])
    source = [centre, centre + towards]
    target = [middle, middle + np.array([0, -0.5 * size[1]])]
    for points in (source, target):
        direct = points[0] - points[1]
        points.append(points[1] + np.array([-direct[1], direct[0]]))
    return np.linalg.solve(np.column_stack((np.array(source), np.ones(3))), np.array(target)).T


def some_regions(dtype=torch.float64, rotations=(0.0, 30.0, -75.0)):
    boxes = torch.tensor([[10, 20, 110, 400], [1000, 700, 1900, 1100], [3.5, 2.5, 40.0, 30]], dtype=dtype)
    regions = PoseRegions.of_boxes(boxes, SIZE)
    return PoseRegions(regions.centres, regions.widths, torch.tensor(rotations, dtype=dtype))


def test_as_three_points():
    regions, points = some_regions(), spread(3, 5)
    for i in range(3):
        matrix = three_points(regions.centres[i].numpy(), regions.widths[i].item(), regions.rotations[i].item(), SIZE)
        inside = points[i].numpy() @ matrix[:, :2].T + matrix[:, 2]
        torch.testing.assert_close(regions.from_picture(points, SIZE)[i], torch.tensor(inside), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rotations", [(0.0, 30.0, -75.0), None])
def test_round_trips(rotations):
    """To a thousandth of a pixel in float32, also of key points outside."""
    regions = some_regions(torch.float32, rotations or (0.0, 0.0, 0.0))
    if rotations is None:
        regions = PoseRegions(regions.centres, regions.widths)
    points = spread(3, 17, margin=-20.0).float()
    there = regions.to_picture(points, SIZE)
    torch.testing.assert_close(regions.from_picture(there, SIZE), points, rtol=0, atol=1e-3)
    again = regions.to_picture(regions.from_picture(there, SIZE), SIZE)
    torch.testing.assert_close(again, there, rtol=0, atol=1e-3)


def test_picture_to_key_points():
    """From places in a picture through targets and decoding back to them: the error of a map pixel, enlarged."""
    regions = some_regions()
    true = regions.to_picture(spread(3), SIZE)
    in_map = regions.from_picture(true, SIZE)
    found, _ = decode_heatmaps(maps_of(in_map), method="dark")
    enlarged = (regions.widths / SIZE[1])[:, None]
    assert ((regions.to_picture(found, SIZE) - true).norm(dim=2) / enlarged).max() < 3e-3


def test_region_of_a_box():
    tall, wide, empty = torch.tensor([[10.0, 20, 20, 84], [0, 0, 96, 10], [5, 5, 5, 3]]).split(1)
    for box, centre, width in ((tall, [15, 52], 48 * 1.25), (wide, [48, 5], 96 * 1.25), (empty, [5, 4], 1.25)):
        region = PoseRegions.of_boxes(box, SIZE)
        assert region.centres.tolist() == [centre]
        assert region.widths.tolist() == [width]
    corners = torch.tensor([[[0.0, 0], [48, 64]]])
    assert PoseRegions.of_boxes(tall, SIZE, padding=1).to_picture(corners, SIZE).tolist() == [[[-9, 20], [39, 84]]]
    assert PoseRegions.of_boxes(torch.zeros(0, 4), SIZE).to_picture(torch.zeros(0, 17, 2), SIZE).shape == (0, 17, 2)


@pytest.mark.parametrize("degrees", [0.0, 90.0, 20.0])
def test_crop_shows_what_the_points_say(degrees):
    """The picture is a plane, which bilinear interpolation keeps; beyond it is black."""
    rows, columns = torch.meshgrid(torch.arange(80.0), torch.arange(100.0), indexing="ij")
    picture = torch.stack((columns, rows)) + 1
    regions = PoseRegions(torch.tensor([[50.0, 40]]), torch.tensor([36.0]), torch.tensor([degrees]))
    crop = regions.crop(picture, (32, 24))
    assert crop.shape == (1, 2, 32, 24)
    grid = torch.stack(torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="xy"), 2).view(1, -1, 2)
    torch.testing.assert_close(
        crop.flatten(2).transpose(1, 2), regions.to_picture(grid, (32, 24)) + 1, rtol=0, atol=1e-3
    )
    outside = PoseRegions(torch.tensor([[-500.0, 40]]), torch.tensor([36.0]))
    assert not outside.crop(picture, (32, 24)).any()


def test_bad_regions():
    with pytest.raises(ValueError, match=r"\[N, 4\]"):
        PoseRegions.of_boxes(torch.zeros(4), SIZE)
    with pytest.raises(ValueError, match="with pixels"):
        some_regions().crop(torch.zeros(3, 0, 5), SIZE)


# ---- Targets and loss ------------------------------------------------------------------------------------------------------


def test_target_of_the_nearest_pixel():
    """As drawn by hand: 13 x 13 pixels of exp(-d^2 / 8), also where they reach over the border."""
    points = torch.tensor([[[20.4, 30.5], [0.6, 61.0]]])
    targets, weights = gaussian_heatmaps(points, torch.ones(1, 2), SIZE)
    expected = np.zeros((2, *SIZE))
    for k, (cx, cy) in enumerate(((20, 31), (1, 61))):
        for y in range(max(cy - 6, 0), min(cy + 7, SIZE[0])):
            for x in range(max(cx - 6, 0), min(cx + 7, SIZE[1])):
                expected[k, y, x] = math.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 8)
    torch.testing.assert_close(targets[0].double(), torch.tensor(expected), rtol=1e-6, atol=1e-7)
    assert weights.tolist() == [[1, 1]]


def test_target_of_the_key_point_itself():
    targets, _ = gaussian_heatmaps(torch.tensor([[[20.4, 30.5]]]), torch.ones(1, 1), SIZE, 3.0, rounded=False)
    assert targets[0, 0, 31, 21].item() == pytest.approx(math.exp(-(0.6**2 + 0.5**2) / 18))
    assert targets[0, 0, 60, 40].item() == pytest.approx(math.exp(-(19.6**2 + 29.5**2) / 18), abs=1e-30)


@pytest.mark.parametrize("rounded", [True, False])
def test_key_points_that_are_not_learnt(rounded):
    """Invisible; just beyond 3 sigma; no number.  One just within counts; a visibility is the weight."""
    points = torch.tensor([[[5.0, 5], [-7, 5], [5, 70], [math.nan, 5], [5, math.inf], [-6, 5], [5, 5], [1e30, 5]]])
    visible = torch.tensor([[0.0, 1, 1, 1, 1, 1, 0.75, 1]])
    targets, weights = gaussian_heatmaps(points, visible, SIZE, rounded=rounded)
    assert weights.tolist() == [[0, 0, 0, 0, 0, 1, 0.75, 0]]
    assert targets.isfinite().all()
    assert targets.flatten(2).any(2).tolist() == [[False] * 5 + [True, True, False]]


def test_no_targets():
    targets, weights = gaussian_heatmaps(torch.zeros(0, 17, 2), torch.zeros(0, 17), SIZE)
    assert (targets.shape, weights.shape) == ((0, 17, *SIZE), (0, 17))
    maps = torch.zeros(0, 17, *SIZE, requires_grad=True)
    loss = HeatmapLoss()(maps, targets, weights)
    loss.backward()
    assert loss.item() == 0


def test_loss_as_the_authors_one_joint_at_a_time():
    generator = torch.Generator().manual_seed(0)
    heatmaps, targets = torch.rand(2, 3, 5, 8, 6, generator=generator, dtype=torch.float64)
    weights = torch.tensor([[1.0, 0, 1, 0.5, 1], [0, 0, 1, 1, 1], [1, 1, 1, 1, 0]], dtype=torch.float64)
    mse, expected = nn.MSELoss(), 0
    for k in range(5):
        w = weights[:, k : k + 1]
        expected += 0.5 * mse(heatmaps[:, k].flatten(1) * w, targets[:, k].flatten(1) * w) / 5
    torch.testing.assert_close(HeatmapLoss()(heatmaps, targets, weights), expected)
    unweighted = HeatmapLoss()(heatmaps, targets)
    torch.testing.assert_close(unweighted, 0.5 * mse(heatmaps, targets))
    stacks = HeatmapLoss()([heatmaps, targets, heatmaps], targets, weights)
    torch.testing.assert_close(stacks, 2 * expected)


def test_loss_of_halves_is_computed_in_float32():
    heatmaps, targets = torch.full((1, 1, 64, 64), 4.0, dtype=torch.float16), torch.zeros(1, 1, 64, 64)
    loss = HeatmapLoss()(heatmaps, targets)  # the sum of squares, 65536, is infinite in float16
    assert (loss.dtype, loss.item()) == (torch.float32, 8)


@pytest.mark.parametrize(
    ("heatmaps", "targets", "weights"),
    [((1, 2, 3, 4), (1, 2, 4, 3), None), ((1, 2, 3, 4), (1, 2, 3, 4), (1, 3)), ((2, 3, 4), (2, 3, 4), None)],
)
def test_bad_loss(heatmaps, targets, weights):
    with pytest.raises(ValueError, match="HeatmapLoss"):
        HeatmapLoss()(torch.zeros(heatmaps), torch.zeros(targets), None if weights is None else torch.zeros(weights))


def test_loss_of_no_stacks_and_bad_targets():
    with pytest.raises(ValueError, match="HeatmapLoss"):
        HeatmapLoss()([], torch.zeros(1, 2, 3, 4))
    with pytest.raises(ValueError, match=r"\[N, K, 2\]"):
        gaussian_heatmaps(torch.zeros(1, 2), torch.zeros(1, 2), SIZE)
    with pytest.raises(ValueError, match="above 0"):
        gaussian_heatmaps(torch.zeros(1, 2, 2), torch.zeros(1, 2), SIZE, sigma=0)


# ---- Metrics ---------------------------------------------------------------------------------------------------------------


def test_oks_by_hand():
    """Area 100, sigma 0.05: a distance of 1 is exp(-1 / (2 * 100 * 0.01)) = exp(-0.5)."""
    true = torch.tensor([[10.0, 10], [20, 20], [30, 30]], dtype=torch.float64)
    found = true + torch.tensor([[0.0, 0], [0.6, 0.8], [500, 500]], dtype=torch.float64)
    area, sigmas = torch.tensor(100.0, dtype=torch.float64), (0.05, 0.05, 0.05)

    def of(visible, found=found):
        return oks(found, true, torch.tensor(visible), area, sigmas).item()

    assert of([2, 2, 0]) == pytest.approx((1 + math.exp(-0.5)) / 2)
    assert of([0, 1, 2]) == pytest.approx(math.exp(-0.5) / 2)
    assert of([1, 0, 0]) == 1
    assert of([0, 0, 0]) == 0
    lost = found.clone()
    lost[0] = math.nan
    assert of([1, 1, 0], lost) == pytest.approx(math.exp(-0.5) / 2)


def test_oks_as_pycocotools():
    """Every person found against every true one."""
    coco = pytest.importorskip("pycocotools.cocoeval")
    generator = torch.Generator().manual_seed(0)
    true = 100 * torch.rand(3, 17, 2, generator=generator, dtype=torch.float64)
    found = true[[0, 1, 2, 0]] + torch.randn(4, 17, 2, generator=generator, dtype=torch.float64) * 3
    visible = torch.randint(0, 3, (3, 17), generator=generator)
    area = torch.tensor([2000.0, 5000, 900], dtype=torch.float64)
    evaluation = coco.COCOeval(iouType="keypoints")
    evaluation._gts = {(1, 1): []}
    evaluation._dts = {(1, 1): []}
    for points, v, a in zip(true, visible, area, strict=True):
        keypoints = torch.cat((points, v[:, None]), 1).flatten().tolist()
        evaluation._gts[1, 1].append({"keypoints": keypoints, "area": a.item(), "bbox": [0, 0, 100, 100]})
    for i, points in enumerate(found):
        keypoints = torch.cat((points, torch.ones(17, 1)), 1).flatten().tolist()
        evaluation._dts[1, 1].append({"keypoints": keypoints, "score": 1 - i / 10})
    expected = torch.tensor(evaluation.computeOks(1, 1))
    torch.testing.assert_close(oks(found[:, None], true, visible, area), expected)
    assert list(COCO_SIGMAS) == pytest.approx(list(evaluation.params.kpt_oks_sigmas))


def test_pckh_by_hand():
    """Head boxes of 30 x 40: sizes of 0.6 * 50 = 30, half of them 15 pixels."""
    true = torch.zeros(2, 4, 2)
    found = torch.tensor([[[15.0, 0], [15.1, 0], [0, 9], [math.nan, 0]], [[9, 12], [10, 12], [99, 0], [0, 0]]])
    visible = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0]])
    heads = torch.tensor([[10.0, 10, 40, 50], [0, 0, 30, 40]])
    each, mean = pckh(found, true, visible, heads, left_out=(2,))
    assert each.tolist() == [1, 0, 0.5, 0]
    assert mean.item() == pytest.approx(2 / 4)
    each, mean = pckh(found, true, visible, heads, threshold=0.6, left_out=())
    assert each.tolist() == [1, 1, 0.5, 0]
    assert mean.item() == pytest.approx(4 / 6)


def test_pckh_of_key_points_that_count_nowhere():
    each, mean = pckh(torch.zeros(0, 16, 2), torch.zeros(0, 16, 2), torch.zeros(0, 16), torch.zeros(0, 4))
    assert each.isnan().all() and mean.isnan()


def test_bad_metrics():
    points, visible = torch.zeros(2, 17, 2), torch.ones(2, 17)
    with pytest.raises(ValueError, match="key points found and true"):
        oks(points, points, torch.ones(2, 16), torch.ones(2))
    with pytest.raises(ValueError, match="sigmas must be of 17"):
        oks(points, points, visible, torch.ones(2), (0.1,))
    with pytest.raises(ValueError, match=r"head_boxes must be \[2, 4\]"):
        pckh(points, points, visible, torch.zeros(2, 2))
