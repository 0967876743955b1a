"""The weights' average, the schedule and the choice of anchors, each against its definition written out."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from torch import nn

from cnnkernels.detection.auto_anchor import best_possible_recall, choose_anchors, fit_anchors, fitness, k_means
from cnnkernels.detection.ema import ModelEMA
from cnnkernels.detection.schedule import cosine_schedule, warmup_cosine
from cnnkernels.nn import ConvBNAct

# ---- EMA -------------------------------------------------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    return nn.Sequential(ConvBNAct(3, 4, 3, act="silu"), nn.Conv2d(4, 2, 1))


def train_a_little(model, steps):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 6, 6)).square().mean().backward()
        optimizer.step()
        yield


def test_ema():
    model = network()
    ema = ModelEMA(model, decay=0.9, warmup=3)
    expected = {name: value.double() for name, value in model.state_dict().items()}
    for t, _ in enumerate(train_a_little(model, 6), start=1):
        ema.update(model)
        d = 0.9 * (1 - math.exp(-t / 3))
        for name, value in model.state_dict().items():
            expected[name] = d * expected[name] + (1 - d) * value.double()
    assert ema.updates == 6 and ema.module is not model and not ema.module.training
    for name, value in ema.module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == 6
        else:
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert not any(p.requires_grad for p in ema.module.parameters())
    assert not torch.equal(ema.module[1].weight, model[1].weight)


def test_ema_is_computed_with_its_new_weights():
    """Folded BatchNorm is kept between calls, and must notice."""
    model, x = network(), torch.randn(1, 3, 6, 6)
    ema = ModelEMA(model, decay=0.5, warmup=1)
    for _ in train_a_little(model, 3):
        with torch.no_grad():
            ema.module(x)
        ema.update(model)
    fresh = network().eval()
    fresh.load_state_dict(ema.module.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ema.module(x), fresh(x))


def test_ema_of_shared_weights_and_wrappers():
    """A tensor under two names is averaged once."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    ema = ModelEMA(nn.DataParallel(model), decay=1.0, warmup=1)
    before = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.add_(1)
    ema.update(nn.DataParallel(model))
    assert type(ema.module) is nn.Sequential and ema.module[0].weight is ema.module[1].weight
    torch.testing.assert_close(ema.module[0].weight, nn.Parameter(before + math.exp(-1), False))
    compiled = torch.compile(model, backend="eager")
    ema.update(compiled)
    assert ema.updates == 2


def test_ema_resumes():
    model = network()
    ema = ModelEMA(model, decay=0.9, warmup=3)
    for _ in train_a_little(model, 3):
        ema.update(model)
    file = io.BytesIO()
    torch.save(ema.state_dict(), file)
    file.seek(0)
    resumed = ModelEMA(network(), decay=0.9, warmup=3)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in train_a_little(model, 2):
        ema.update(model)
        resumed.update(model)
    assert resumed.updates == 5
    for a, b in zip(ema.module.state_dict().values(), resumed.module.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_ema_bad_input():
    with pytest.raises(ValueError, match="decay must be from 0 to 1"):
        ModelEMA(network(), decay=1.1)
    with pytest.raises(ValueError, match="warmup positive"):
        ModelEMA(network(), warmup=0)
    ema = ModelEMA(network())
    before = copy.deepcopy(ema.state_dict())
    with pytest.raises(ValueError, match=r"the model has changed: .*1\.weight"):
        ema.update(network()[:1])
    assert ema.updates == 0 and all(torch.equal(v, ema.module.state_dict()[k]) for k, v in before["model"].items())


# ---- schedule --------------------------------------------------------------------------------------------------------


def test_warmup_cosine():
    factors = [warmup_cosine(step, steps=30, warmup=4, final=0.1, flat=6) for step in range(35)]
    np.testing.assert_allclose(factors[:5], [0.2, 0.4, 0.6, 0.8, 1.0])
    cosine = [0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi * k / 20)) for k in range(21)]
    np.testing.assert_allclose(factors[4:25], cosine)
    np.testing.assert_allclose(factors[24:], 0.1)
    assert warmup_cosine(0, 1) == 1.0
    assert warmup_cosine(5, 10, final=0.0) == pytest.approx(0.5)


def test_schedule_is_torchs_cosine_without_warm_up():
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [parameters[0]], "lr": 0.1}, {"params": [parameters[1]], "lr": 0.02}]
    ours, theirs = (torch.optim.SGD(copy.deepcopy(groups), 0.1) for _ in range(2))
    scheduler = cosine_schedule(ours, steps=20, final=0.0)
    expected = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 20)
    for _ in range(20):
        assert [g["lr"] for g in ours.param_groups] == pytest.approx([g["lr"] for g in theirs.param_groups])
        for optimizer, steps in ((ours, scheduler), (theirs, expected)):
            optimizer.step()
            steps.step()
    state = scheduler.state_dict()
    resumed = cosine_schedule(torch.optim.SGD(copy.deepcopy(groups), 0.1), steps=20, final=0.0)
    resumed.load_state_dict(state)
    assert resumed.last_epoch == 20


@pytest.mark.parametrize(
    "kw", [{"steps": 0}, {"steps": 5, "warmup": 5}, {"steps": 5, "warmup": -1}, {"steps": 5, "flat": 6}]
)
def test_schedule_bad_input(kw):
    with pytest.raises(ValueError, match="must fit into the steps"):
        warmup_cosine(0, **kw)


# ---- anchors ---------------------------------------------------------------------------------------------------------

YOLOV3 = [[(10, 13), (16, 30), (33, 23)], [(30, 61), (62, 45), (59, 119)], [(116, 90), (156, 198), (373, 326)]]


def boxes(count=300, seed=0, longest=400.0):
    r = np.random.default_rng(seed)
    return np.exp(r.uniform(np.log(4.0), np.log(longest), (count, 1)) + r.normal(0, 0.3, (count, 2)))


def metric_by_loops(sides, anchors, ratio=4.0):
    best = []
    for w, h in sides:
        best.append(max(min(min(w / a, a / w), min(h / b, b / h)) for a, b in anchors))
    matched = [b for b in best if b > 1 / ratio]
    return len(matched) / len(best), sum(matched) / len(best)


@pytest.mark.parametrize("ratio", [2.0, 4.0])
def test_recall_and_fitness(ratio):
    anchors = np.array([pair for level in YOLOV3 for pair in level], float)
    recall, fit = metric_by_loops(boxes(), anchors, ratio)
    assert 0 < recall < 1
    assert best_possible_recall(boxes(), anchors, ratio) == pytest.approx(recall, abs=1e-12)
    assert fitness(boxes(), anchors, ratio) == pytest.approx(fit, abs=1e-12)


def test_k_means_finds_groups():
    centres = np.array([[10.0, 30], [100, 20], [200, 300]])
    r = np.random.default_rng(0)
    sides = np.concatenate([c + r.normal(0, 1, (50, 2)) for c in centres])
    found = k_means(sides, 3, np.random.default_rng(1))
    expected = sides.reshape(3, 50, 2).mean(axis=1)
    np.testing.assert_allclose(found[np.argsort(found[:, 1])], expected[np.argsort(expected[:, 1])])


def test_fitted_anchors():
    first, again, other = (fit_anchors(boxes(), 6, generations=200, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.shape == (6, 2) and (np.diff(first.prod(axis=1)) >= 0).all()
    plain = fit_anchors(boxes(), 6, generations=0, seed=3)
    assert fitness(boxes(), first) > fitness(boxes(), plain)


def test_good_anchors_are_kept():
    sides = np.array([[12, 14], [60, 60], [300, 300]], float)
    choice = choose_anchors(sides, YOLOV3)
    assert not choice.changed and choice.recall == choice.recall_before == 1.0
    assert choice.anchors == YOLOV3


def test_bad_anchors_are_replaced():
    tiny = boxes(longest=30.0)
    choice = choose_anchors(tiny, [[(300, 300), (310, 300)], [(100, 100)]], generations=100)
    assert choice.changed and choice.recall > 0.9 > choice.recall_before
    assert [len(level) for level in choice.anchors] == [2, 1]
    area = [[w * h for w, h in level] for level in choice.anchors]
    assert max(area[1]) < min(area[0])  # the level of small anchors gets the small ones
    flat = [pair for level in choice.anchors for pair in level]
    assert choice.recall == pytest.approx(metric_by_loops(tiny[(tiny >= 2).all(axis=1)], flat)[0])


def test_anchors_that_match_no_more_are_refused():
    """One anchor for two groups a hundred times apart: neither choice reaches more than half."""
    sides = np.concatenate([np.full((10, 2), 4.0) + np.arange(10)[:, None] / 10, np.full((10, 2), 400.0)])
    choice = choose_anchors(sides, [[(400, 400)]], generations=50)
    assert not choice.changed and choice.recall == 0.5 and choice.anchors == [[(400, 400)]]


def test_boxes_too_small_do_not_count():
    sides = np.array([[1.9, 50], [50, 1], [60, 60]])
    assert choose_anchors(sides, YOLOV3).recall == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_possible_recall(np.zeros((0, 2)), [[1, 1]]), r"sides must be \[K, 2\] with K > 0"),
        (lambda: best_possible_recall([[1, 2, 3]], [[1, 1]]), r"sides must be \[K, 2\]"),
        (lambda: best_possible_recall([[1, 2]], [[1, 0]]), "anchors must be positive and finite"),
        (lambda: best_possible_recall([[1, float("nan")]], [[1, 1]]), "sides must be positive and finite"),
        (lambda: choose_anchors([[1, 1]], YOLOV3), "no box has both sides of 2 pixels"),
        (lambda: fit_anchors([[5, 5]] * 20, 2), "2 anchors need as many different boxes, got 1"),
    ],
)
def test_anchors_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
