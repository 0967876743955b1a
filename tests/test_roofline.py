"""cnnkernels bench --roofline: counts and ceilings against hand calculation, tables, files, and what it refuses."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from cnnkernels import _backend, _ext, cli
from cnnkernels.compare import labels
from cnnkernels.models import create_model
from cnnkernels.models.cost import cost
from cnnkernels.roofline import Ceilings, Result, Row, ceilings, layers, layers_of, measure, output, plot, profile

pytestmark = pytest.mark.skipif(_ext.module is None, reason="the ceilings are measured by the extension")

# 100 GFLOP/s; 40 GB/s up to 1 kB, 50 up to 1 MB, 10 beyond.
MACHINE = Ceilings(100e9, ((1_000, 40e9), (1_000_000, 50e9), (100_000_000, 10e9)), 1)


def row(flops, moved, seconds, contender="cnnkernels", layer="a", call_seconds=1e-6):
    least = MACHINE.compute_seconds(flops), MACHINE.memory_seconds(moved)
    return Row(contender, layer, (1, 8, 4, 4), flops, moved, seconds, *least, call_seconds)


# ---- ceilings --------------------------------------------------------------------------------------------------------


def test_multiply_adds_are_done_and_counted(isa, threads):
    """Every lane tends to 2 exactly, so the sum of a task's lanes gives their number: 2 FLOPs a lane and turn."""
    width = {"generic": 4, "avx2": 8, "avx512": 16}[isa]
    for turns in (64, 1000):
        flops, sums = torch.ops.cnnkernels_native.fma_peak(torch.empty(0), turns)
        assert flops.tolist() == [2.0 * 12 * width * turns] * threads
        assert sums.tolist() == [2.0 * 12 * width] * threads
    flops, sums = torch.ops.cnnkernels_native.fma_peak(torch.empty(0), 1)  # from 0, one step leads to 1
    assert sums.tolist() == [12.0 * width] * threads
    with pytest.raises(RuntimeError, match="turns must be 0 or more"):
        torch.ops.cnnkernels_native.fma_peak(torch.empty(0), -1)


def test_bandwidth_is_that_of_the_fastest_copy_of_as_much_or_more():
    assert [MACHINE.bandwidth(b) for b in (0, 1_000, 1_001, 1_000_000, 1_000_001, 1e12)] == [50e9] * 4 + [10e9] * 2
    assert (MACHINE.cache_bandwidth, MACHINE.memory_bandwidth) == (50e9, 10e9)
    assert MACHINE.compute_seconds(2e9) == pytest.approx(0.02)
    assert MACHINE.memory_seconds(1e6) == pytest.approx(20e-6)
    assert MACHINE.memory_seconds(2e6) == pytest.approx(200e-6)


def test_measured_ceilings_are_of_this_machine(monkeypatch):
    """A matrix product cannot beat the multiply-adds by more than the clock's changes, nor come near without a vector unit."""
    monkeypatch.setattr(ceilings, "_SECONDS", 0.05)
    measured = Ceilings.measured()
    assert measured.threads == torch.get_num_threads()
    a = torch.randn(512, 512)
    product = 2 * 512**3 / ceilings.best_seconds(lambda: a @ a)
    assert 0.4 * product < measured.flops
    assert [size for size, _ in measured.copies] == [2**n for n in range(18, 30)]
    assert all(1e8 < rate < 1e13 for _, rate in measured.copies)


def test_no_ceilings_without_the_extension(monkeypatch, capsys):
    monkeypatch.setattr(_ext, "module", None)
    monkeypatch.setattr(_ext, "error", "the compiled extension is not built")
    with pytest.raises(RuntimeError, match="measured by the extension: the compiled extension is not built"):
        Ceilings.measured()


# ---- counts ----------------------------------------------------------------------------------------------------------


def test_layers_by_hand():
    """MobileNetV2's first layers and its classifier, for two images of 64 x 64."""
    found = {layer.name: layer for layer in layers_of(create_model("mobilenet_v2").eval(), torch.randn(2, 3, 64, 64))}
    assert list(found) == [f"features.{i}" for i in range(19)] + ["classifier"]
    stem, first, last = found["features.0"], found["features.1"], found["classifier"]
    assert stem.shape == (2, 32, 32, 32)
    assert stem.flops == 2 * (2 * 32 * 32 * 32) * 27
    assert stem.bytes == 4 * (2 * 3 * 64 * 64 + 2 * 32 * 32 * 32 + 32 * 27 + 2 * 32)  # x, y, filters, BatchNorm
    assert first.shape == (2, 16, 32, 32)
    assert first.flops == 2 * (2 * 32 * 32) * (32 * 9 + 32 * 16)  # depthwise, then 1x1
    assert first.bytes == 4 * (2 * 32 * 32 * (32 + 16) + 32 * 9 + 2 * 32 + 32 * 16 + 2 * 16)
    assert last.shape == (2, 1000)
    assert last.flops == 2 * 2 * 1280 * 1000
    assert last.bytes == 4 * (2 * 1280 * 2 * 2 + 2 * 1000 + 1280 * 1000 + 1000)


NETWORKS = ("alexnet", "vgg11", "densenet121", "hrnet_w18_small_v1", "shufflenet_v2_x1_0", "mixnet_s", "ghostnet")


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_make_up_the_network(name):
    """Whatever its steps are (parts of Sequentials, bound methods, pairs of maps): the counts are those of the whole."""
    size = 64 if name != "alexnet" else 128
    model = create_model(name).eval()
    found = layers_of(model, torch.randn(1, 3, size, size))
    assert sum(layer.flops for layer in found) == 2 * cost(model, (1, 3, size, size)).macs
    assert all(layer.bytes > 0 and layer.name for layer in found)
    assert not any(m._forward_hooks for m in model.modules())
    if name == "hrnet_w18_small_v1":  # no steps: one layer and the head
        assert len(found) == 2


def test_names():
    assert layers._name(["features.0.0", "features.0.1"]) == "features.0"
    assert layers._name(["conv1", "bn1", "relu"]) == "conv1 .. relu"
    assert layers._name(["fc", ""]) == "fc"


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_what_bounds_a_layer():
    heavy = row(10**9, 10**6, 20e-3)  # 10 ms of arithmetic, 20 us of copying
    assert (heavy.bound, heavy.share, heavy.intensity) == ("compute", pytest.approx(0.5), pytest.approx(1000))
    wide = row(10**6, 10**8, 40e-3)  # 10 us, 10 ms
    assert (wide.bound, wide.share) == ("memory", pytest.approx(0.25))
    small = row(10**4, 10**3, 2e-6)  # 0.1 us, 20 ns, and a call takes 1
    assert (small.bound, small.share) == ("overhead", pytest.approx(0.05))


def test_measured_network():
    result = profile("mobilenet_v2", 1, 32, ("cnnkernels", "eager"), rounds=1, ceilings=MACHINE)
    assert (result.network, result.batch, result.size) == ("mobilenet_v2", 1, 32)
    for contender in ("cnnkernels", "eager"):
        rows = [r for r in result.rows if r.contender == contender]
        assert [r.layer for r in rows] == [f"features.{i}" for i in range(19)] + ["classifier"]
        assert all(0 < r.seconds < 1 for r in rows) and result.network_seconds[contender] > 0
        assert rows[0].compute_seconds == rows[0].flops / 100e9
        assert len({r.call_seconds for r in rows}) == 1
    assert {r.flops for r in result.rows if r.layer == "features.3"} == {result.rows[3].flops}


def test_contenders_are_what_they_are_called(monkeypatch):
    """Fused layers run kernels of the package, eager ones none."""
    seen = {}
    original = measure._fastest

    def spy(calls, rounds):
        with _backend.record_backends() as runs:
            for call in calls.values():
                call()
        seen.setdefault(_backend.wanted(), []).extend(r.backend for r in runs)
        return original(calls, rounds)

    monkeypatch.setattr(measure, "_fastest", spy)
    profile("mobilenet_v2", 1, 32, ("cnnkernels", "eager"), rounds=1, ceilings=MACHINE)
    assert set(seen[None]) == {"cpu"}
    assert set(seen["reference"]) <= {"reference"}


def test_a_network_that_is_no_sequence_is_refused():
    with pytest.raises(ValueError, match="yolox_nano is not a classification network"):
        profile("yolox_nano", rounds=1, ceilings=MACHINE)


# ---- output ----------------------------------------------------------------------------------------------------------


def a_result():
    rows = [
        row(10**9, 10**6, 20e-3, layer="heavy"),
        row(10**6, 10**8, 40e-3, layer="wide"),
        row(0, 10**6, 1e-3, layer="pool"),
        row(10**9, 10**6, 50e-3, "eager", "heavy"),
    ]
    return Result("net", 2, 64, MACHINE, rows, {"cnnkernels": 50e-3, "eager": 60e-3})


def test_text():
    told = output.text(a_result())
    lines = [line.split() for line in told.splitlines()]
    assert "\nceilings: 100 GFLOP/s; copies 50 GB/s from caches, 10.0 GB/s from memory\n" in told
    head = ["layer", "result", "MFLOP", "kB", "FLOP/B", "us", "GFLOP/s", "GB/s", "bound", "of", "roof"]
    assert lines.count(head) == 2
    assert ["heavy", "1x8x4x4", "1000.00", "1000", "1000.0", "20000.0", "50.0", "0.1", "compute", "50", "%"] in lines
    assert ["wide", "1x8x4x4", "1.00", "100000", "0.0", "40000.0", "0.0", "2.5", "memory", "25", "%"] in lines
    # 20 + 40 + 1 ms; 2.001 GFLOP less eager's: 1.001 in 50 ms; 10 + 10 + 0.02 ms at the roof
    assert (
        "layers together 61.00 ms, the network as a whole 50.00 ms (20.0 GFLOP/s); at the roof 20.02 ms, 40 % of what it took"
        in told
    )


def test_picture():
    result = a_result()
    figure = plot.figure(result)
    (ax,) = figure.axes
    cache, memory = ax.lines
    # Copies within caches meet the flat part at 100 / 50 = 2 FLOPs a byte, copies in memory at 10.
    assert cache.get_xdata()[1] == pytest.approx(2) and list(cache.get_ydata())[1:] == [100, 100]
    assert memory.get_xdata()[1] == pytest.approx(10)
    dots = sorted(tuple(p) for c in ax.collections for p in c.get_offsets().tolist())
    assert dots == [(pytest.approx(0.01), pytest.approx(0.025)), (1000, 20), (1000, 50)]  # not the pool
    (panel,) = labels.placed(figure)
    assert {"heavy", "wide", "100 GFLOP/s"} == {text for text, _ in panel}


# ---- the command -----------------------------------------------------------------------------------------------------


def run(*arguments):
    return cli.main(["bench", "--roofline", *arguments])


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(Ceilings, "measured", classmethod(lambda cls: MACHINE))


def test_files(tmp_path, capsys, quick):
    png, file = tmp_path / "x.png", tmp_path / "x.json"
    options = ["--size", "32", "--rounds", "1", "--batch", "2", "--eager", "--png", str(png), "--json", str(file)]
    assert run("mobilenet_v2", *options) == 0
    printed = capsys.readouterr().out
    assert "mobilenet_v2, 2 x 3 x 32 x 32" in printed and "\ncnnkernels\n" in printed and "\neager\n" in printed
    assert "machine: " in printed and "ceilings: multiply-adds on registers" in printed
    assert png.read_bytes()[:4] == b"\x89PNG"
    content = json.loads(file.read_text())
    assert len(content["rows"]) == 40 and content["ceilings"]["flops"] == 100e9
    first = content["rows"][0]
    assert first["share"] == pytest.approx(max(first["compute_seconds"], first["memory_seconds"]) / first["seconds"])
    assert first["bound"] in ("compute", "memory", "overhead")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nothing"], 1, "no network called 'nothing'"),
        (["yolox_nano"], 1, "not a classification network"),
        (["--batch", "0"], 2, "at least 1"),
        (["--png", "x.txt"], 2, "--png x.txt: the name must end in .png"),
        (["--json", "absent/x.json"], 2, "there is no folder"),
        (["inception_v3", "--size", "16", "--rounds", "1"], 1, "Kernel size can't be greater than actual input size"),
    ],
)
def test_bad_requests(arguments, status, message, capsys, quick):
    assert run(*arguments) == status
    assert message in capsys.readouterr().err


def test_missing_matplotlib(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("--png", str(tmp_path / "x.png")) == 2
    assert "--png needs matplotlib: pip install matplotlib" in capsys.readouterr().err


def test_interrupted(monkeypatch, capsys):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("cnnkernels.roofline.command.profile", stop)
    assert run() == 130
    assert "interrupted" in capsys.readouterr().err


def test_sequentials_are_opened():
    inner = nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU6()))
    assert [type(m) for m in layers._leaves(inner)] == [nn.ReLU, nn.ReLU6]
