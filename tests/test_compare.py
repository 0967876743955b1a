"""Networks side by side: counts, tables, files, presets, and what happens when something is wrong."""

import csv
import json
import sys

import pytest
import torch

from cnnkernels import cli
from cnnkernels.compare import Row, Settings, compare, labels, measure, plot, presets, select, table
from cnnkernels.models import list_models, model_entry

QUICK = Settings(rounds=1, seconds=0.0)
COUNTS = Settings(time=False)


def test_rows():
    rows = list(compare(["mobilenet_v2", "resnet18"], (1, 2), 64, QUICK))
    assert [(r.name, r.batch) for r in rows] == [(n, b) for n in ("mobilenet_v2", "resnet18") for b in (1, 2)]
    first = rows[0]
    assert (first.parameters, first.top1, first.family) == (3_504_872, 72.0, "mobilenet_v2")
    for r in rows:
        assert r.problem is None
        assert r.eager_layout in ("NCHW", "channels_last")
        assert r.speedup == pytest.approx(r.eager_ms / r.fused_ms)
        assert r.images_per_second == pytest.approx(1e3 * r.batch / r.fused_ms)
        if sys.platform == "linux":
            assert r.eager_memory >= 0 and r.fused_memory >= 0


def test_peak_memory_sees_what_is_allocated():
    if sys.platform != "linux":
        pytest.skip("the peak of the resident memory is Linux's")
    _, peak = measure._peak_memory(lambda: torch.ones(16 * 2**20).sum(), "cpu")
    assert 60e6 < peak < 80e6


def test_counts_need_no_computation():
    (row,) = compare(["vgg19"], (1,), None, COUNTS)
    assert (row.parameters, row.macs, row.size) == (143_667_240, 19_632_062_464, 224)
    assert row.fused_ms is None and row.speedup is None


def test_outputs_that_disagree_are_not_timed(monkeypatch):
    original = measure._models

    def broken(*args):
        models = original(*args)
        with torch.no_grad():
            models["fused"].fc.weight.add_(1)
        return models

    monkeypatch.setattr(measure, "_models", broken)
    (row,) = compare(["resnet18"], (1,), 64, QUICK)
    assert "outputs differ" in row.problem
    assert row.fused_ms is None
    assert "outputs differ" in table([row])


def test_float64_judges_where_float32_results_part():
    """Fused is right unless it is further from the exact result than the plain modules are."""
    eager, x = torch.nn.Linear(3, 2), torch.ones(1, 3)
    with torch.no_grad():
        exact = eager.double()(x.double()).float()
        eager.float()
        plain = {"NCHW": exact + 1e-3, "channels_last": exact - 5e-4}
        assert measure._as_good_as_eager(eager, x, {**plain, "fused": exact - 1e-3})
        assert not measure._as_good_as_eager(eager, x, {**plain, "fused": exact - 3e-3})
        assert not measure._as_good_as_eager(eager, x, {**plain, "fused": exact * float("nan")})


def test_a_network_that_does_not_fit_stops_no_other():
    rows = list(compare(["inception_v3", "resnet18"], (1,), 32, QUICK))
    assert "do not fit" in rows[0].problem
    assert rows[1].problem is None and rows[1].fused_ms > 0
    assert "do not fit" in table(rows)


def test_dtype_reaches_the_blocks():
    block = presets._unit(8, 8)
    (row,) = presets._measure({"x": block}, (8, 5, 5), 2, Settings(rounds=1, seconds=0.0, dtype=torch.bfloat16))
    assert block.conv.weight.dtype is torch.bfloat16
    assert row.fused > 0


def test_select():
    assert select(["resnet18", "resnet*"])[0] == "resnet18"
    assert len(select(["resnet*", "resnet18"])) == len(list_models("resnet*"))
    with pytest.raises(ValueError, match=r"no network called 'mobilenet_v'; similar: .*mobilenet_v2"):
        select(["mobilenet_v"])


# ---- the command -----------------------------------------------------------------------------------------------------


def run(*arguments):
    return cli.main(["compare", *arguments])


def test_files(tmp_path, capsys):
    paths = {form: tmp_path / f"out.{form}" for form in ("json", "csv", "png")}
    options = ["--json", str(paths["json"]), "--csv", str(paths["csv"]), "--plot", str(paths["png"])]
    assert run("mobilenet_v2", "resnet18", "--size", "64", "--rounds", "1", "--seconds", "0", *options) == 0
    printed = capsys.readouterr().out
    assert "mobilenet_v2" in printed and "speed-up" in printed and "machine: " in printed
    content = json.loads(paths["json"].read_text())
    assert {"machine", "torch", "commit", "date", "dtype", "method"} == set(content["conditions"])
    assert [r["name"] for r in content["rows"]] == ["mobilenet_v2", "resnet18"]
    assert content["rows"][0]["speedup"] > 0
    lines = list(csv.DictReader(paths["csv"].open()))
    assert [(line["name"], int(line["parameters"])) for line in lines] == [
        ("mobilenet_v2", 3_504_872),
        ("resnet18", 11_689_512),
    ]
    assert paths["png"].read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "out.json", "out.png"]


def test_no_time_and_sort(capsys):
    assert run("resnet*", "--no-time", "--sort", "params") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("resn")]
    assert len(lines) == len(list_models("resnet*"))
    assert [float(line[3]) for line in lines] == sorted(float(line[3]) for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which networks"),
        (["nothing"], "no network called 'nothing'"),
        (["resnet18", "--batch", "0"], "at least 1"),
        (["resnet18", "--json", "absent/x.json"], "there is no folder"),
        (["resnet18", "--preset", "separable"], "takes no networks"),
        (["--preset", "separable", "--batch", "1", "8"], "takes one --batch"),
        (["--preset", "separable", "--no-time", "--plot", "x.png"], "plots times"),
        (["resnet18", "--plot", "x.txt"], "must end in .png"),
        pytest.param(
            ["resnet18", "--device", "cuda"],
            "sees no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_bad_requests(arguments, message, capsys):
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


def test_interrupt_keeps_what_was_measured(monkeypatch, capsys, tmp_path):
    def interrupted(*args):
        yield from compare(["resnet18"], (1,), 64, COUNTS)
        raise KeyboardInterrupt

    monkeypatch.setattr("cnnkernels.compare.command.compare", interrupted)
    assert run("resnet18", "resnet34", "--json", str(tmp_path / "x.json")) == 130
    captured = capsys.readouterr()
    assert "resnet18" in captured.out
    assert "interrupted after 1 of 2 rows" in captured.err
    assert len(json.loads((tmp_path / "x.json").read_text())["rows"]) == 1


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    path.write_text("before")
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        from cnnkernels.compare import write_csv

        write_csv(path, list(compare(["resnet18"], (1,), None, COUNTS)))
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["x.csv"]


def test_missing_extras(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    assert run("resnet18", "--no-time") == 0
    assert run("resnet18", "--no-time", "--plot", str(tmp_path / "x.png")) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_labels_do_not_overlap():
    """All networks at once, the most crowded plot there is."""
    rows = [
        r
        for name in list_models(task="classification")
        if model_entry(name).top1
        for r in compare([name], (1,), None, COUNTS)
    ]
    for r in rows:
        r.fused_ms = r.macs / 1e8
    figure = plot.figure(rows)
    for panel in labels.placed(figure):
        assert len(panel) > len(rows) // 4
        for i, (text, box) in enumerate(panel):
            for other, other_box in panel[i + 1 :]:
                assert not box.overlaps(other_box), (text, other)


def test_plot_without_accuracies():
    row = Row("x", "x", 1, 224, 1, 1, 1, None)
    with pytest.raises(ValueError, match="a published accuracy"):
        plot.figure([row])


# ---- presets ---------------------------------------------------------------------------------------------------------


def test_separable_example_of_the_survey():
    example, *layers = presets.separable(COUNTS)
    assert example.title == "10x10x3 -> 16"
    assert [r.weights for r in example.rows] == [432, 75]
    assert "83 % fewer" in example.verdict
    for t in layers:
        assert t.rows[0].macs > 7 * t.rows[1].macs


def test_guidelines_have_equal_multiply_adds():
    tables = presets.guidelines(COUNTS)
    assert [t.title[:2] for t in tables] == ["G1", "G2", "G3", "G4"]
    assert [len(t.rows) for t in tables] == [4, 4, 5, 4]
    for t in tables:
        for r in t.rows:
            assert r.macs == pytest.approx(t.rows[0].macs, rel=0.06)


def test_guidelines_are_measured(capsys, tmp_path):
    tables = presets.guidelines(QUICK, size=8)
    for t in tables:
        assert all(r.eager > 0 and r.fused > 0 for r in t.rows)
        assert "eager: " in t.verdict and "fused: " in t.verdict
        assert "images/s" in t.text()
    path = tmp_path / "x.json"
    assert run("--preset", "separable", "--no-time", "--json", str(path)) == 0
    assert "75 weights instead of 432" in capsys.readouterr().out
    assert json.loads(path.read_text())["tables"][0]["rows"][0]["weights"] == 432


def test_files_of_measured_blocks(tmp_path, capsys):
    files = {form: tmp_path / f"x.{form}" for form in ("csv", "png")}
    assert (
        run(
            "--preset",
            "separable",
            "--rounds",
            "1",
            "--seconds",
            "0",
            "--csv",
            str(files["csv"]),
            "--plot",
            str(files["png"]),
        )
        == 0
    )
    lines = list(csv.DictReader(files["csv"].open()))
    assert (lines[1]["table"], lines[1]["name"], lines[1]["weights"]) == ("10x10x3 -> 16", "3x3 depthwise + 1x1", "75")
    assert len(lines) == 8 and all(float(line["fused"]) > 0 for line in lines)
    assert files["png"].read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.csv", "x.png"]


def test_bars_show_every_block():
    tables = presets.separable(COUNTS)
    with pytest.raises(ValueError, match="not timed"):
        plot.bars(tables)
    for t in tables:
        for r in t.rows:
            r.eager, r.fused = 1 / r.macs, 0.5 / r.macs
    figure = plot.bars(tables)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [plot.caption(t) for t in tables]
    for ax, t in zip(figure.axes, tables, strict=True):
        assert [label.get_text() for label in ax.get_yticklabels()] == [r.name for r in t.rows]
        widths = [bar.get_width() for bars in ax.containers for bar in bars]
        assert widths == pytest.approx([r.macs for r in t.rows] + [2 * r.macs for r in t.rows])


def test_presets_of_networks():
    for names in presets.NETWORKS.values():
        assert select(names) == list(names)
