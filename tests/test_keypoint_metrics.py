"""OKS and PCKh: by hand, and as pycocotools."""

import math

import pytest
import torch

from cnnkernels.detection.keypoint_metrics import COCO_SIGMAS, oks, pckh


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
