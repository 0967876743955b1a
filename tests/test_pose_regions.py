"""The part of a picture that a pose network sees: against the authors' affine map, solved from three points."""

import math

import numpy as np
import pytest
import torch

from cnnkernels.detection.keypoints import decode_heatmaps
from cnnkernels.detection.pose_regions import PoseRegions
from tests.gaussians import SIZE, maps_of, spread


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
