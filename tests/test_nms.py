"""The NMS family against the definition, written as a direct loop over boxes in fp64; decisions compare exactly.

Boxes are multiples of 1/8, so that half types hold them too, or the measured distance of every overlap from the threshold
exceeds what float32 rounds: then one list of indices is right, for every backend and instruction set.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import cnnkernels
from cnnkernels import _ext, ops

from . import torchvision_oracle

KINDS = ("iou", "giou", "diou", "ciou")
ROUNDING = 4e-6  # of an overlap in float32: a dozen roundings of values up to 2
INF, NAN = math.inf, math.nan
ISAS = ("generic", "avx2", "avx512")

on_every_backend = pytest.mark.parametrize(
    ("device", "backend"),
    [("cpu", b) for b in ("reference", "cpu", "cuda", "triton")]
    + [pytest.param("cuda", b, marks=pytest.mark.gpu) for b in ("reference", "cuda", "triton")],
    indirect=["backend"],
)


def instruction_sets():
    """Switches the CPU kernels to every instruction set that this CPU has, one after the other, and back."""
    if _ext.module is None:
        pytest.skip(str(_ext.error))
    before = _ext.module.cpu_isa()
    try:
        for name in ISAS:
            if _ext.module.set_cpu_isa(name) == name:
                yield name
    finally:
        _ext.module.set_cpu_isa(before)


# ---- the definition -----------------------------------------------------------------------------------------------------


def quotient(a, b):
    return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=b > 0)


def overlaps(a, b, kind, beta=1.0):
    """Overlap of box a [4] with the boxes b [M, 4], in fp64."""
    a, b = np.asarray(a, np.float64)[None], np.asarray(b, np.float64).reshape(-1, 4)
    size_a, size_b = (np.clip(t[:, 2:] - t[:, :2], 0, None) for t in (a, b))
    shared = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(1)
    union = size_a.prod(1) + size_b.prod(1) - shared
    iou = quotient(shared, union)
    around = np.clip(np.maximum(a[:, 2:], b[:, 2:]) - np.minimum(a[:, :2], b[:, :2]), 0, None)
    if kind == "iou":
        return iou
    if kind == "giou":
        return iou - quotient(np.clip(around.prod(1) - union, 0, None), around.prod(1))
    centres = (a[:, :2] + a[:, 2:]) / 2 - (b[:, :2] + b[:, 2:]) / 2
    diou = iou - quotient((centres**2).sum(1), (around**2).sum(1)) ** beta
    if kind == "diou":
        return diou
    v = 4 / math.pi**2 * (np.arctan2(*size_a.T) - np.arctan2(*size_b.T)) ** 2
    return diou - v * quotient(v, 1 - iou + v)


def numbers(t):
    return t.detach().cpu().double().numpy()


def ranked(boxes, scores):
    """Boxes that can be kept, by falling score, the lower index first."""
    usable = np.isfinite(boxes).all(1) & ~np.isnan(scores)
    return sorted(np.flatnonzero(usable).tolist(), key=lambda i: (-scores[i], i))


def greedy(boxes, scores, threshold, kind, beta=1.0, ids=()):
    """(kept indices, smallest distance between an overlap that was looked at and the threshold)."""
    boxes, scores, ids = numbers(boxes), numbers(scores), [t.tolist() for t in ids]
    kept, margin = [], INF
    for i in ranked(boxes, scores):
        rivals = [j for j in kept if all(t[j] == t[i] for t in ids)]
        values = overlaps(boxes[i], boxes[rivals], kind, beta)
        margin = min(margin, np.abs(values - threshold).min(initial=INF))
        if not (values > threshold).any():
            kept.append(i)
    return kept, margin


def assert_keeps_what_the_definition_keeps(kept, boxes, scores, threshold, kind, rounding):
    """For many boxes: ``kept`` obeys the definition, where an overlap within rounding of the threshold may go either way.

    keep i  <=>  no kept j before i has overlap(j, i) > threshold
    """
    boxes, scores = numbers(boxes), numbers(scores)
    order = np.array(ranked(boxes, scores))
    is_kept = np.isin(order, kept)
    assert order[is_kept].tolist() == kept
    surely, perhaps = np.zeros((2, len(order)), bool)
    for place in np.flatnonzero(is_kept):
        later = slice(place + 1, None)
        values = overlaps(boxes[order[place]], boxes[order[later]], kind)
        surely[later] |= values > threshold + rounding
        perhaps[later] |= values > threshold - rounding
    assert not (is_kept & surely).any()
    assert (is_kept | perhaps).all()
    assert (perhaps & ~surely).mean() < 0.01  # else the check would accept too much


# ---- inputs -------------------------------------------------------------------------------------------------------------


def random_boxes(n, seed=0, field=64.0, small=4.0, large=40.0, step=1 / 8):
    """Boxes and scores, many of them equal; coordinates are multiples of step."""
    g = np.random.default_rng(seed)
    corner = g.uniform(0, field, (n, 2))
    size = g.uniform(small, large, (n, 2))
    boxes = np.round(np.concatenate((corner, corner + size), 1) / step) * step
    return torch.tensor(boxes), torch.tensor(g.integers(0, 4 * n // 3 + 1, n) / 64)


def run(function, backend, device, *tensors, **arguments):
    with cnnkernels.record_backends() as runs:
        out = function(*(t if t is None or isinstance(t, (int, float)) else t.to(device) for t in tensors), **arguments)
    assert [(r.backend, r.reason) for r in runs] == [(backend, None)]
    return out


# ---- small inputs, every backend ------------------------------------------------------------------------------------------


@on_every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("kind", "threshold", "beta"),
    [("iou", 0.5, 1), ("iou", 0.0, 1), ("giou", 0.3, 1), ("giou", -0.4, 1), ("diou", 0.45, 1), ("diou", 0.3, 0.6)]
    + [("diou", -0.1, 1), ("ciou", 0.4, 1), ("ciou", 0.2, 0.6)],
)
def test_random(kind, threshold, beta, dtype, device, backend):
    if dtype is torch.float64 and backend in ("cuda", "triton"):
        pytest.skip("float64 is for cpu and reference")
    boxes, scores = (t.to(dtype) for t in random_boxes(130, seed=1))
    want, margin = greedy(boxes, scores, threshold, kind, beta)
    assert margin > ROUNDING or kind == "iou"  # the ratio of two exact areas
    assert 5 < len(want) < 125
    got = run(ops.nms, backend, device, boxes, scores, threshold, kind=kind, beta=beta)
    assert got.dtype is torch.int64
    assert got.tolist() == want


S = (0, 0, 8, 8)  # a square, and boxes that overlap it
HALF, INSIDE, AWAY = (0, 0, 8, 4), (1, 1, 7, 7), (100, 100, 108, 108)
SPECIAL = {
    # name: boxes, scores, threshold, kind, kept
    "no box": ([], [], 0.5, "iou", []),
    "one box": ([S], [0.5], 0.5, "iou", [0]),
    "one box under the lowest threshold": ([S], [0.5], -INF, "diou", [0]),
    "one box without a score": ([S], [NAN], 0.5, "iou", []),
    "all but the best removed": ([S, S, INSIDE, S], [0.1, 0.4, 0.9, 0.2], 0.5, "iou", [2]),
    "the same box many times": ([S] * 70, [0.5] * 70, 0.5, "diou", [0]),
    "nothing overlaps": ([AWAY, S], [0.1, 0.9], 0.0, "iou", [1, 0]),
    "equal scores": ([AWAY, S, INSIDE, AWAY, S], [0.5] * 5, 0.5, "iou", [0, 1]),
    "equal scores of both zeros": ([S, AWAY, (50, 0, 60, 8)], [-0.0, 0.0, -0.0], 0.5, "iou", [0, 1, 2]),
    "exactly at the threshold": ([S, HALF], [0.9, 0.8], 0.5, "iou", [0, 1]),
    "just above the threshold": ([S, HALF], [0.9, 0.8], math.nextafter(0.5, 0), "iou", [0]),
    "threshold 1": ([S, S], [0.9, 0.8], 1.0, "iou", [0, 1]),
    "threshold above 1": ([S, S], [0.9, 0.8], 7.0, "ciou", [0, 1]),
    "threshold +inf": ([S, S], [0.9, 0.8], INF, "iou", [0, 1]),
    "threshold -inf": ([S, AWAY, S], [0.1, 0.2, 0.9], -INF, "giou", [2]),
    "touching": ([S, (8, 0, 16, 8)], [0.9, 0.8], 0.0, "iou", [0, 1]),
    "removed boxes remove nothing": ([S, (0, 3, 8, 11), (0, 6, 8, 14)], [0.9, 0.8, 0.7], 0.4, "iou", [0, 2]),
    "far apart, giou": ([S, AWAY], [0.9, 0.8], -0.9, "giou", [0, 1]),  # -0.989
    "apart, giou above": ([S, (16, 0, 24, 8)], [0.9, 0.8], -0.34, "giou", [0]),  # -1/3
    "apart, diou": ([S, (16, 0, 24, 8)], [0.9, 0.8], -0.4, "diou", [0, 1]),  # -256 / 640 = -0.4
    "centres together": ([S, INSIDE], [0.9, 0.8], 0.5625, "diou", [0, 1]),  # 36 / 64: iou, and no penalty
    "centres together, above": ([S, INSIDE], [0.9, 0.8], 0.5624, "ciou", [0]),
    "NaN score": ([S, S, AWAY], [NAN, 0.5, 0.1], 0.5, "iou", [1, 2]),
    "only NaN scores": ([S, AWAY], [NAN, NAN], 0.5, "iou", []),
    "infinite scores": ([S, AWAY, S], [0.5, -INF, INF], 0.5, "iou", [2, 1]),
    "equal infinite scores": ([S, AWAY, S, AWAY], [-INF, INF, -INF, INF], 0.5, "iou", [1, 0]),
    "score -inf and NaN": ([S, S, AWAY], [-INF, NAN, NAN], 0.5, "iou", [0]),
    "NaN coordinate": ([(0, 0, NAN, 8), S, S], [0.9, 0.8, 0.7], 0.5, "iou", [1]),
    "NaN in every place": ([(NAN, 0, 8, 8), (0, NAN, 8, 8), (0, 0, NAN, 8), (0, 0, 8, NAN)], [0.9] * 4, 0.5, "iou", []),
    "infinite coordinate": ([(-INF, -INF, INF, INF), S], [0.9, 0.8], 0.0, "iou", [1]),
    "infinite side": ([(0, 0, INF, 8), (0, -INF, 8, 8), S], [0.9, 0.8, 0.7], -0.5, "giou", [2]),
    "without area": ([(3, 3, 3, 3), (3, 3, 3, 3)], [0.9, 0.8], 0.0, "iou", [0, 1]),
    "without area, negative threshold": ([(3, 3, 3, 3), (3, 3, 3, 3)], [0.9, 0.8], -0.01, "iou", [0]),
    "points, giou": ([(3, 3, 3, 3), (3, 3, 3, 3)], [0.9, 0.8], -0.01, "giou", [0]),
    "points, diou": ([(3, 3, 3, 3), (3, 3, 3, 3)], [0.9, 0.8], -0.01, "diou", [0]),
    "points, ciou": ([(3, 3, 3, 3), (3, 3, 3, 3)], [0.9, 0.8], 0.0, "ciou", [0, 1]),
    "lines": ([(0, 3, 8, 3), (0, 3, 8, 3), S], [0.9, 0.8, 0.7], 0.0, "diou", [0, 1, 2]),
    "a point in a box": ([S, (4, 4, 4, 4)], [0.9, 0.8], 0.0, "iou", [0, 1]),
    "corners swapped": ([(8, 8, 0, 0), S], [0.9, 0.8], 0.0, "iou", [0, 1]),
    "corners swapped twice": ([(8, 8, 0, 0), (8, 8, 0, 0)], [0.9, 0.8], -0.01, "iou", [0]),
}


@on_every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", SPECIAL)
def test_special_values(name, dtype, device, backend):
    if backend == "triton" and device == "cpu" and dtype is not torch.float32:
        pytest.skip("the interpreter is slow; test_random covers the dtypes")
    boxes, scores, threshold, kind, want = SPECIAL[name]
    boxes, scores = torch.tensor(boxes, dtype=dtype).reshape(-1, 4), torch.tensor(scores, dtype=dtype)
    assert run(ops.nms, backend, device, boxes, scores, threshold, kind=kind).tolist() == want
    indices, count = run(ops.nms_padded, backend, device, boxes[None], scores[None], threshold, kind=kind, max_out=6)
    assert indices.tolist() == [want + [-1] * (6 - len(want))]
    assert count.tolist() == [len(want)]


@pytest.mark.parametrize("name", SPECIAL)
def test_the_definition_of_this_file_agrees(name):
    boxes, scores, threshold, kind, want = SPECIAL[name]
    assert greedy(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), threshold, kind)[0] == want


@on_every_backend
def test_the_threshold_is_compared_as_given(device, backend):
    """3/10 rounds to 0.30000001 in float32, which is above 0.3: the threshold must not be rounded the same way."""
    boxes, scores = torch.tensor([(0.0, 0, 10, 1), (0, 0, 3, 1)]), torch.tensor([0.9, 0.8])
    for threshold, want in ((0.3, [0]), (0.3000000119, [0]), (0.30000002, [0, 1]), (0.29999998, [0])):
        assert run(ops.nms, backend, device, boxes, scores, threshold, kind="iou").tolist() == want
    if backend in ("cpu", "reference"):
        assert run(ops.nms, backend, device, boxes.double(), scores.double(), 0.3, kind="iou").tolist() == [0, 1]


@on_every_backend
def test_overflow_counts_as_no_overlap(device, backend):
    """Two boxes of infinite area in float32: the union is not a number."""
    huge = torch.tensor([(-3e38, -3e38, 3e38, 3e38), (-3e38, -3e38, 3e38, 3e38), (0.0, 0.0, 1e30, 1e30)])
    for kind in KINDS:
        got = run(ops.nms, backend, device, huge, torch.tensor([0.9, 0.8, 0.7]), 0.5, kind=kind)
        assert got.tolist() == [0, 1, 2]


@on_every_backend
@pytest.mark.parametrize("kind", KINDS)
def test_hard_values_among_many(kind, device, backend):
    """Enough boxes for every path of the kernels, a third of them special."""
    boxes, scores = (t.float() for t in random_boxes(150, seed=2))
    boxes[::9, 1] = NAN
    boxes[1::9, 2] = INF
    boxes[2::9] = boxes[3::9][: len(boxes[2::9])]
    boxes[4::18, 2] = boxes[4::18, 0]
    boxes[5::18] = boxes[5::18][:, [2, 3, 0, 1]]
    scores[::7], scores[3::14], scores[5::28], scores[6::28] = 0.5, NAN, INF, -INF
    classes = torch.arange(150) % 2
    want, margin = greedy(boxes, scores, 0.35, kind, ids=[classes])
    assert margin > ROUNDING
    assert run(ops.nms, backend, device, boxes, scores, 0.35, kind=kind, class_ids=classes.to(device)).tolist() == want


@on_every_backend
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8], ids=str)
def test_classes_and_images(dtype, device, backend):
    boxes, scores = (t.float() for t in random_boxes(90, seed=3))
    g = torch.Generator().manual_seed(0)
    top = torch.iinfo(dtype)
    values = torch.tensor([0, 1, top.max, top.min, top.max - 1])
    classes = values[torch.randint(0, 5, (90,), generator=g)].to(dtype)
    images = torch.randint(0, 3, (90,), generator=g).to(dtype)
    both = {"class_ids": classes.to(device), "batch_ids": images.to(device)}
    for ids in ({}, {"class_ids": both["class_ids"]}, {"batch_ids": both["batch_ids"]}, both):
        want, margin = greedy(boxes, scores, 0.3, "diou", ids=list(ids.values()))
        assert margin > ROUNDING
        assert run(ops.nms, backend, device, boxes, scores, 0.3, **ids).tolist() == want


@on_every_backend
def test_padded_is_nms_of_every_image(device, backend):
    boxes, scores = random_boxes(3 * 80, seed=4)
    boxes, scores = boxes.float().reshape(3, 80, 4), scores.float().reshape(3, 80)
    scores[1] = NAN  # an image without boxes
    classes = (torch.arange(240) % 3).reshape(3, 80)
    for max_out in (0, 1, 7, 80, 100):
        ids = classes.to(device)
        indices, count = run(ops.nms_padded, backend, device, boxes, scores, 0.4, class_ids=ids, max_out=max_out)
        assert (indices.dtype, count.dtype, indices.shape) == (torch.int64, torch.int64, (3, max_out))
        for i in range(3):
            want, margin = greedy(boxes[i], scores[i], 0.4, "diou", ids=[classes[i]])
            assert margin > ROUNDING
            want = want[:max_out]
            assert indices[i].tolist() == want + [-1] * (max_out - len(want))
            assert count[i] == len(want)


@on_every_backend
def test_short_forms(device, backend):
    boxes, scores = (t.float() for t in random_boxes(100, seed=5))
    classes = torch.arange(100) % 4
    assert run(ops.diou_nms, backend, device, boxes, scores, 0.45).tolist() == greedy(boxes, scores, 0.45, "diou")[0]
    want, margin = greedy(boxes, scores, 0.45, "diou", ids=[classes])
    assert margin > ROUNDING
    assert run(ops.batched_diou_nms, backend, device, boxes, scores, classes, 0.45).tolist() == want


# ---- the CPU kernel's grid, in every instruction set -----------------------------------------------------------------------


def placements():
    """Where boxes lie, as the grid sees them: (name, boxes)."""
    g = np.random.default_rng(0)
    spread, _ = random_boxes(400, seed=6, field=512.0, small=2.0, large=96.0, step=1.0)
    yield "spread", spread
    yield "one place", spread % 8 + torch.tensor([0.0, 0, 16, 16])
    yield "on a vertical line", spread * torch.tensor([0.0, 1, 0, 1]) + torch.tensor([0.0, 0, 32, 0])
    yield "on a horizontal line", spread * torch.tensor([1.0, 0, 1, 0]) + torch.tensor([0.0, 0, 0, 32])
    yield "far from the origin", spread + torch.tensor([2.0**20, -(2.0**20)] * 2)
    far = spread.clone()
    far[:5] += torch.tensor([2.0**22] * 4)
    yield "some very far away", far
    wide = spread.clone()
    wide[3:6] = torch.tensor([-4096.0, -4096, 4096, 4096])
    yield "some over all others", wide
    flat = spread.clone()
    flat[::2, 3] = flat[::2, 1]
    flat[1::4] = flat[1::4][:, [2, 3, 0, 1]]
    yield "half of them without area", flat
    yield "tiny and large", torch.where(torch.tensor(g.random((400, 1)) < 0.7), spread / 64, spread)
    yield "subnormal", spread * 2.0**-140
    yield "overflowing", spread * 2.0**100


@pytest.mark.parametrize("threshold", [0.0, 1 / 64, 0.3, 0.5, 15 / 16])
@pytest.mark.parametrize(("name", "boxes"), [pytest.param(n, b, id=n) for n, b in placements()])
def test_any_placement(name, boxes, threshold):
    """The vector kernel finds exactly the neighbours that the plain definition of the package finds."""
    boxes = boxes.float()
    scores = random_boxes(len(boxes), seed=7)[1].float()
    for kind in KINDS:
        with cnnkernels.use_backend("reference"):
            want = run(ops.nms, "reference", "cpu", boxes, scores, threshold, kind=kind).tolist()
        for isa in instruction_sets():
            assert run(ops.nms, "cpu", "cpu", boxes, scores, threshold, kind=kind).tolist() == want, (kind, isa)
        if kind == "iou" and name not in ("subnormal", "overflowing"):  # a ratio of exact areas
            rounding = ROUNDING if threshold == 0.3 else 0.0
            assert_keeps_what_the_definition_keeps(want, boxes, scores, threshold, kind, rounding)


def test_instruction_set_by_environment():
    """CNNKERNELS_CPU_ISA is read in a new process, and every set takes the same decisions there."""
    program = (
        "import torch, cnnkernels; from cnnkernels import _ext, ops\n"
        "g = torch.Generator().manual_seed(0); c = torch.rand(500, 2, generator=g) * 200\n"
        "boxes = torch.cat((c, c + 40 * torch.rand(500, 2, generator=g)), 1)\n"
        "with cnnkernels.record_backends() as runs:\n"
        "    kept = ops.diou_nms(boxes, torch.rand(500, generator=g), 0.4)\n"
        "print(_ext.module.cpu_isa(), {r.backend for r in runs}, kept.tolist())\n"
    )
    if _ext.module is None:
        pytest.skip(str(_ext.error))
    printed = {}
    for name in ("generic", "avx2", ""):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"CNNKERNELS_CPU_ISA": name},
            capture_output=True,
            text=True,
            check=True,
        )
        printed[name] = done.stdout.partition(" ")
    assert printed["generic"][0] == "generic"
    if _ext.module.set_cpu_isa(_ext.module.cpu_isa()) != "generic":
        assert printed["avx2"][0] == "avx2"
    assert {p[2] for p in printed.values()} == {printed[""][2]}
    assert printed[""][2].startswith("{'cpu'} [")


# ---- many boxes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(k, torch.float32) for k in KINDS] + [("diou", t) for t in (torch.float16, torch.bfloat16, torch.float64)],
    ids=str,
)
def test_twenty_thousand_boxes(kind, dtype):
    boxes, scores = random_boxes(20_000, seed=8, field=120.0, small=16.0, large=120.0, step=0.25)
    boxes, scores = boxes.to(dtype), (scores / 256).to(dtype)
    kept = run(ops.nms, "cpu", "cpu", boxes, scores, 0.45, kind=kind)
    assert 200 < len(kept) < 2000
    rounding = 1e-12 if dtype is torch.float64 else ROUNDING
    assert_keeps_what_the_definition_keeps(kept.tolist(), boxes, scores, 0.45, kind, rounding)
    for isa in instruction_sets():
        assert torch.equal(run(ops.nms, "cpu", "cpu", boxes, scores, 0.45, kind=kind), kept), isa
    with cnnkernels.use_backend("reference"):
        assert torch.equal(run(ops.nms, "reference", "cpu", boxes, scores, 0.45, kind=kind), kept)


@pytest.mark.parametrize("n", [2047, 2049])
def test_many_boxes_on_the_cuda_kernels(n, host_cuda):
    boxes, scores = (t.float() for t in random_boxes(n, seed=9, field=200.0))
    kept = run(ops.nms, "cpu", "cpu", boxes, scores, 0.4)
    with cnnkernels.use_backend("cuda"):
        assert torch.equal(run(ops.nms, "cuda", "cpu", boxes, scores, 0.4), kept)
    assert_keeps_what_the_definition_keeps(kept.tolist(), boxes, scores, 0.4, "diou", ROUNDING)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["cuda", "triton"], indirect=True)
def test_twenty_thousand_boxes_on_a_gpu(backend):
    boxes, scores = (t.float() for t in random_boxes(20_000, seed=8, field=120.0, small=16.0, large=120.0))
    kept = run(ops.nms, backend, "cuda", boxes, scores, 0.45)
    assert_keeps_what_the_definition_keeps(kept.tolist(), boxes, scores, 0.45, "diou", ROUNDING)


@pytest.mark.parametrize("images", [1, 5])
def test_the_same_for_any_number_of_threads(images):
    boxes, scores = random_boxes(images * 1200, seed=10, field=300.0)
    boxes, scores = boxes.float().reshape(images, -1, 4), scores.float().reshape(images, -1)
    classes = torch.arange(images * 1200).reshape(images, -1) % 7
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(ops.nms_padded, "cpu", "cpu", boxes, scores, 0.4, class_ids=classes, max_out=900))
    finally:
        torch.set_num_threads(before)
    for indices, count in results[1:]:
        assert torch.equal(indices, results[0][0])
        assert torch.equal(count, results[0][1])


# ---- torchvision ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 300, 2000])
def test_torchvision(n):
    """Its nms and, for many boxes, its batched_nms (which below 1,000 boxes moves the classes apart and rounds)."""
    torchvision = torchvision_oracle.torchvision()
    if torchvision is None:
        pytest.skip(torchvision_oracle.why_not())
    boxes, _ = random_boxes(n, seed=11, field=300.0, step=1.0)
    boxes, scores = boxes.float(), torch.randperm(n, generator=torch.Generator().manual_seed(0)).float()
    classes = torch.arange(n) % 5
    for threshold in (0.75, 0.0, 0.5):  # whole-numbered boxes: many overlaps are exactly at these thresholds
        want = torchvision.ops.nms(boxes, scores, threshold)
        assert torch.equal(run(ops.nms, "cpu", "cpu", boxes, scores, threshold, kind="iou"), want)
        want = torchvision.ops.batched_nms(boxes, scores, classes, threshold)
        got = run(ops.nms, "cpu", "cpu", boxes, scores, threshold, kind="iou", class_ids=classes)
        assert torch.equal(got, want)
    if n == 2000:  # at threshold 0.5
        assert 100 < len(got) < 1900
