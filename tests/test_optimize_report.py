"""What ``optimize`` says, and that it undoes regions that are wrong, slow or raise."""

import json
import time

import pytest
import torch
from torch import nn

from cnnkernels.optimize import Entry, Report, _choose, _regions, api, optimize
from cnnkernels.optimize._measure import Latencies

from .optimize_oracle import MODES, SMALL, Small, called, exact, image, ready, relative, same_step, small, swapped


@pytest.fixture
def patched_units(monkeypatch):
    """Called with a function of (unit, x, result): what every unit returns from then on."""
    forward = _regions.Unit.forward

    def patch(change):
        monkeypatch.setattr(_regions.Unit, "forward", lambda self, *args: change(self, args[0], forward(self, *args)))
        monkeypatch.delattr(_regions.Unit, "_plan")  # of the units' own call, which would take the place of forward

    return patch


def _wrong(unit, x, y):
    return y * 1.01


def _other_shape(unit, x, y):
    return y[..., 1:]


def _other_dtype(unit, x, y):
    return y.double()


def _not_finite(unit, x, y):
    return torch.where(y == y.max(), torch.inf, y)


def _raises(unit, x, y):
    raise RuntimeError("this kernel is not for\nthese images")


def _detached(unit, x, y):
    return y.detach()


DEFECTS = {
    _wrong: "its result differs",
    _other_shape: "returns [",
    _other_dtype: "instead of [2, 8, 8, 8] torch.float32",
    _not_finite: "is finite where the other is not",
    _raises: "raises RuntimeError: this kernel is not for",
}


class Plain(nn.Module):
    """Two units that are no bottleneck, and a layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.classifier = nn.Linear(8, 5)

    def forward(self, x):
        return self.classifier(self.second(self.first(x)).amax((2, 3)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("defect", DEFECTS)
def test_defective_regions_are_undone(defect, mode, patched_units):
    model, x = ready(Plain(), mode), image()
    patched_units(defect)
    fast, report = optimize(model, x, mode, tune=False)
    undone = [e for e in report.entries if e.status == "undone"]
    assert {e.name for e in undone if e.kind == "conv"} == {"first.0", "second.0"}
    assert {e.name for e in undone if e.kind == "norm"} == {"first.1", "second.1"}  # what is left is tried next
    assert all(DEFECTS[defect] in e.why and "\n" not in e.why for e in undone), [e.why for e in undone]
    assert swapped(report) == {"linear": 1}
    if mode == "train":
        same_step(fast, model, x)  # the patch is still there: nothing of it runs
    else:
        assert relative(fast(x), exact(model, x)) < 1e-5


def test_lost_gradients_are_seen(patched_units):
    model, x = ready(Plain(), "train"), image()
    patched_units(_detached)
    fast, report = optimize(model, x, "train", tune=False)
    assert {e.why for e in report.entries if e.status == "undone"} == {"a parameter has no gradient"}
    same_step(fast, model, x)


@pytest.mark.parametrize("mode", MODES)
def test_slow_regions_are_undone(mode, patched_units):
    calls = []

    def slow(unit, x, y):
        calls.append(unit)
        time.sleep(0.03)
        return y

    model, x = ready(Plain(), mode), image()
    patched_units(slow)
    fast, report = optimize(model, x, mode)
    undone = [e for e in report.entries if e.status == "undone" and e.why == "slower" and e.kind in ("conv", "norm")]
    assert {e.name for e in undone} == {"first.0", "second.0", "first.1", "second.1"}
    for e in undone:
        assert e.after_ms > 30 and e.after_ms > e.before_ms
        assert e.error < 1e-4
    calls.clear()
    fast(x)
    assert not calls


def test_region_that_is_wrong_but_passes_is_caught_by_the_whole(patched_units, monkeypatch):
    model, x = ready(Plain()), image()
    patched_units(_wrong)
    monkeypatch.setattr(_choose, "compare_calls", lambda *args: 0.0)
    fast, report = optimize(model, x, tune=False)
    assert not report.swapped
    assert any(note.startswith("everything is undone: the whole is") for note in report.notes), report.notes
    assert not fast.runs_program()
    with torch.no_grad():
        assert torch.equal(fast(x), model(x))


def test_without_verification_nothing_is_compared(patched_units):
    patched_units(_wrong)
    fast, report = optimize(ready(Plain()), image(), verify=False, tune=False)
    assert swapped(report) == {"conv": 2, "linear": 1}
    assert report.error is None and all(e.error is None for e in report.entries)
    assert fast.runs_program()


def test_nothing_to_gain(monkeypatch):
    monkeypatch.setattr(api, "latencies", lambda *args: Latencies(1.0, "contiguous", 1.5, True))
    model, x = ready(Small()), image()
    fast, report = optimize(model, x)
    assert not report.swapped and not fast.runs_program()
    assert "nothing to gain: the network runs as it was" in str(report)
    assert "everything is undone: the whole takes 1.50 ms instead of 1.00" in str(report)
    assert called(fast, x)[1] == {}
    with torch.no_grad():
        assert torch.equal(fast(x), model(x))


def test_what_a_tuned_report_holds(monkeypatch):
    monkeypatch.setattr(_choose, "SLOWER", 1e9)
    monkeypatch.setattr(api, "latencies", lambda *args: Latencies(3.0, "channels_last", 1.5, False))
    _, report = optimize(ready(Small()), image())
    assert report.speedup == 2
    assert all(e.before_ms > 0 and e.after_ms > 0 and 0 <= e.error < 1e-5 for e in report.swapped)
    text = str(report)
    assert "latency: 3.00 ms (channels_last) -> 1.50 ms, 2.00x" in text
    assert text.splitlines()[0].startswith("Small, infer, example [2, 3, 16, 16] float32, cpu, ")
    assert "classifier" in text and "stem.0" in text


@pytest.mark.parametrize("mode", MODES)
def test_as_dict_is_json(mode):
    torch.manual_seed(0)
    _, report = optimize(ready(Small(), mode), image(), mode, tune=False)
    found = json.loads(json.dumps(report.as_dict()))
    assert found["model"] == "Small" and found["mode"] == mode and found["example"] == "[2, 3, 16, 16] float32"
    assert found["speedup"] is None and found["error"] < 1e-5
    assert 0 < found["after_bytes"] < found["before_bytes"]
    counts = {}
    for e in found["entries"]:
        for kind, n in (e["parts"] or {e["kind"]: 1}).items():
            counts[kind] = counts.get(kind, 0) + n
    assert counts == SMALL[mode]


def test_memory_is_counted():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    x = image(4)
    _, report = optimize(ready(model), x, tune=False)
    written = x.numel() * 4
    assert (report.before_bytes, report.after_bytes) == (3 * written, written)
    _, report = optimize(ready(model, "train"), x, "train", tune=False)
    assert report.before_bytes >= 3 * written  # x, what BatchNorm and ReLU read
    assert 2 * written <= report.after_bytes < report.before_bytes


def test_table_and_head_of_a_report_by_hand():
    report = Report(
        "Net",
        "train",
        "[1, 3, 8, 8] float32",
        "cpu, 1 threads",
        [
            Entry("stem", "conv", "swapped", error=1e-7, before_ms=1.0, after_ms=0.25),
            Entry("a", "run", "swapped", parts={"conv": 2, "inverted_residual": 1}),
            Entry("b", "module", "skipped", "cannot be traced: because"),
        ],
        ["something"],
        before_bytes=2 * 2**20,
        after_bytes=2**20,
    )
    lines = str(report).splitlines()
    assert lines[1] == "swapped: 3 conv, 1 inverted_residual"
    assert lines[2] == "memory: 2.0 -> 1.0 MiB kept for the backward pass"
    assert [line.split() for line in lines if line.startswith("stem")] == [
        ["stem", "conv", "swapped", "1000", "us", "250", "us", "1e-07"]
    ]
    assert any(line.split()[:3] == ["a", "run", "swapped"] and "2 conv, 1 inverted_residual" in line for line in lines)
    assert lines[-1] == "note: something"


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_picture(tmp_path, suffix, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(_choose, "SLOWER", 1e9)
    monkeypatch.setattr(api, "latencies", lambda *args: Latencies(3.0, "channels_last", 1.5, False))
    _, report = optimize(ready(Small()), image())
    path = tmp_path / f"report{suffix}"
    report.plot(path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    assert len(content) > 5000
    if suffix == ".svg":
        assert all(e.name in content.decode() or e.kind in content.decode() for e in report.swapped)
    _, untimed = optimize(small()[0], image(), tune=False)
    untimed.plot(path)  # nothing to draw is no error
    with pytest.raises(ValueError, match="png"):
        report.plot(tmp_path / "report.txt")
