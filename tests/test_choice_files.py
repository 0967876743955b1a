"""The files of measured choices, and whatever may be wrong with them: no exception reaches the user, nothing is half-written."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

import pytest
import torch

import cnnkernels
from cnnkernels import ops
from cnnkernels.choice import files, store, table
from cnnkernels.choice.table import Damaged, Table

from .test_choice import CPU, _forget, backends, cache, fastest  # noqa: F401  (fixtures)

HERE = Table("cpu x", "2.13.0", "0.1.0 without CUDA", "a test")
GOOD = {
    "schema": 1,
    "source": "s",
    "device": "cpu x",
    "torch": "2.13.0",
    "cnnkernels": "0.1.0 without CUDA",
    "choices": {},
}


def with_choices(choices):
    return Table(HERE.device, HERE.torch, HERE.cnnkernels, HERE.source, choices)


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "er" / "x.json"
    assert files.write(path, with_choices({"mish": {"a": "cpu"}, "bn_act": {"b": "triton"}})) is None
    assert files.write(path, with_choices({"mish": {"c": "reference", "a": "triton"}})) is None
    found, note = files.read(path, HERE)
    assert found.choices == {"mish": {"c": "reference", "a": "triton"}, "bn_act": {"b": "triton"}}
    assert note == "fits, 3 choices"
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


DAMAGED = {
    "nothing": (b"", "expected JSON"),
    "truncated": (json.dumps({**GOOD, "choices": {"mish": {"a": "cpu"}}}).encode()[:-20], "expected JSON"),
    "not text": (b"\xff\xfe\x00", "expected JSON"),
    "nested too deep": (b"[" * 200_000, "expected JSON"),
    "no object": (b"[1]", "expected an object of schema 1, got list"),
    "another schema": (json.dumps({**GOOD, "schema": 2}).encode(), "expected an object of schema 1, got 2"),
    "a field less": (json.dumps({k: v for k, v in GOOD.items() if k != "torch"}).encode(), "expected the fields"),
    "a field more": (json.dumps({**GOOD, "x": 1}).encode(), "expected the fields"),
    "a number for a version": (json.dumps({**GOOD, "torch": 2}).encode(), "expected a string .* for torch, got '2'"),
    "a list of choices": (json.dumps({**GOOD, "choices": []}).encode(), "expected an object of ops, got list"),
    "a list of keys": (json.dumps({**GOOD, "choices": {"mish": []}}).encode(), "object of keys for mish, got list"),
    "no backend": (json.dumps({**GOOD, "choices": {"mish": {"a": "gpu"}}}).encode(), "for mish, got 'gpu'"),
    "unhashable backend": (json.dumps({**GOOD, "choices": {"mish": {"a": []}}}).encode(), r"for mish, got '\[\]'"),
    "a long key": (json.dumps({**GOOD, "choices": {"mish": {"a" * 2000: "cpu"}}}).encode(), "a key of mish"),
    "too large": (b" " * (table.MAX_BYTES + 1), "expected at most 1048576 bytes, got 1048577"),
    "too many": (
        json.dumps({**GOOD, "choices": {"m": dict.fromkeys(map(str, range(5000)), "cpu")}}).encode(),
        "expected at most 4096 choices, got 5000",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_ignored_with_one_warning_and_replaced(name, tmp_path):
    content, message = DAMAGED[name]
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(Damaged, match=message):
        files.load(path)
    with pytest.warns(RuntimeWarning, match="ignores the measured choices") as seen:
        assert files.read(path, HERE)[0] is None
    assert len(seen) == 1
    assert files.write(path, with_choices({"mish": {"a": "cpu"}})) is None
    assert files.load(path).choices == {"mish": {"a": "cpu"}}


@pytest.mark.parametrize("field", ["device", "torch", "cnnkernels"])
def test_a_file_of_another_machine_or_version_is_ignored_silently(field, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**GOOD, field: "another", "choices": {"mish": {"a": "cpu"}}}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, note = files.read(path, HERE)
        assert found is None and note == f"ignored: it is for {field} another, this is {getattr(HERE, field)}"
        assert files.read(tmp_path / "absent.json", HERE) == (None, "no file")
        files.write(path, with_choices({"mish": {"b": "triton"}}))  # what does not fit is not carried on
    assert files.load(path).choices == {"mish": {"b": "triton"}}


def test_something_else_in_the_files_place(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("pipe", "expected a regular file"), (".", "directory")):
        with pytest.warns(RuntimeWarning, match=f"ignores .*{message}"):
            assert files.read(tmp_path / name, HERE)[0] is None


def test_a_full_table_drops_what_it_has_had_longest(tmp_path):
    many = {f"k{i}": "cpu" for i in range(table.MAX_CHOICES)}
    path = tmp_path / "x.json"
    files.write(path, with_choices({"mish": many}))
    assert len(files.load(path)) == table.MAX_CHOICES
    files.write(path, with_choices({"mish": {"new": "triton"}}))
    kept = files.load(path).choices["mish"]
    assert len(kept) == table.MAX_CHOICES and kept["new"] == "triton" and "k0" not in kept
    longest = {"x" * 1000 + str(i): "reference" for i in range(table.MAX_CHOICES)}
    files.write(path, with_choices({"mish": longest}))
    assert path.stat().st_size <= table.MAX_BYTES
    assert 0 < len(files.load(path)) < table.MAX_CHOICES


def test_where_files_are(monkeypatch, tmp_path):
    for name in ("CNNKERNELS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.path_of("NVIDIA H200") == tmp_path / ".cache" / "cnnkernels" / "nvidia-h200.json"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert files.folder() == tmp_path / "x" / "cnnkernels"
    monkeypatch.setenv("CNNKERNELS_CACHE", str(tmp_path / "y"))
    assert files.folder() == tmp_path / "y"
    assert files.path_of("../../a/b").parent == tmp_path / "y"
    for name in ("CNNKERNELS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as of a user without a home
    assert files.folder() == pathlib.Path(tempfile.gettempdir()) / "cnnkernels"


# ---- in use ----------------------------------------------------------------------------------------------------------


def test_another_process_finds_what_was_measured(cache, fastest):  # noqa: F811
    fastest("reference")
    x = torch.randn(2, 3, 4, 4)
    cnnkernels.tune(ops.mish, x)
    _forget()
    assert backends(lambda: ops.mish(x)) == [("activation", "reference", True, None)]
    (path,) = cache.iterdir()
    assert store.known(CPU).path == path and store.known(CPU).note == "fits, 1 choices"


def test_a_damaged_cache_costs_one_warning(cache, fastest):  # noqa: F811
    path = store.known(CPU).path
    path.parent.mkdir(parents=True)
    path.write_text("{")
    _forget()
    x = torch.randn(2, 3, 4, 4)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(3):
            ops.mish(x)
            ops.channel_shuffle(x[:, :2], 2)
    assert [w.category for w in seen] == [RuntimeWarning]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fastest("reference")
        cnnkernels.tune(ops.mish, x)
    assert len(files.load(path)) == 1


@pytest.mark.parametrize("how", ["a file in the folder's place", "no space"])
def test_a_folder_that_takes_no_files(how, tmp_path, cache, fastest, monkeypatch):  # noqa: F811
    """Permissions do not hold root, who may run these tests; these two do."""
    if how == "no space":
        monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    else:
        cache.write_text("not a folder")
        _forget()
    fastest("reference")
    x = torch.randn(2, 3, 4, 4)
    with pytest.warns(RuntimeWarning, match="cannot keep its measured choices"):
        found = cnnkernels.tune(ops.mish, x)
    assert len(found) == 1
    assert backends(lambda: ops.mish(x)) == [("activation", "reference", True, None)]  # in this process it holds
    assert cache.is_file() or list(cache.iterdir()) == []


def test_an_error_while_tuning_keeps_what_was_measured(cache, fastest):  # noqa: F811
    fastest("reference")
    with pytest.raises(KeyError), cnnkernels.tuning():
        ops.mish(torch.randn(2, 3, 4, 4))
        raise KeyError
    assert not store.tuning
    assert len(files.load(store.known(CPU).path)) == 1


def test_two_processes_at_once(tmp_path):
    """Readers see a whole table at every moment, and the last one is one writer's or both's."""
    program = (
        "import sys, pathlib\n"
        "from cnnkernels.choice import files\n"
        "from cnnkernels.choice.table import Table\n"
        "path, me = pathlib.Path(sys.argv[1]), sys.argv[2]\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for i in range(150):\n"
        "    files.write(path, Table('d', 't', 'c', 's', {me: {f'{i}-{n}': 'cpu' for n in range(10)}}))\n"
        "    assert files.load(path).device == 'd'\n"
    )
    path = tmp_path / "x.json"
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for name in ("a", "b")
    ]
    for w in writers:
        assert w.stdout.readline() == "ready\n"
    for w in writers:
        w.stdin.write("\n")
        w.stdin.flush()
    reads = 0
    while any(w.poll() is None for w in writers):
        if path.exists():
            assert set(files.load(path).choices) <= {"a", "b"}
            reads += 1
    assert [w.wait() for w in writers] == [0, 0]
    assert reads > 10
    last = files.load(path).choices
    assert any("149-9" in chosen for chosen in last.values())
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
