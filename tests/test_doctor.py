"""``explain()`` and ``cnnkernels doctor``, also where parts are missing."""

import subprocess
import sys

import pytest
import torch

import cnnkernels
from cnnkernels import _ext, _selftest, cli, ops
from cnnkernels._op import REGISTRY


def test_every_public_op_has_a_self_test():
    assert set(_selftest.SAMPLES) == set(ops.__all__)


def test_doctor_passes(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for name in ops.__all__:
        assert name in out
    assert "self-tests passed" in out
    assert torch.__version__ in out


def test_doctor_finds_a_wrong_kernel(monkeypatch, capsys):
    op = REGISTRY["activation"]
    if op.default_backend("cpu") != "cpu":
        pytest.skip("needs the built extension")
    monkeypatch.setattr(op, "native", lambda native, x, act: torch.zeros_like(x))
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "differs from reference" in out
    assert "self-tests failed" in out


def test_explain_lists_fallbacks_and_reasons():
    with cnnkernels.use_backend("cuda"):
        cnnkernels.ops.activation(torch.randn(3), "relu")
        told = str(cnnkernels.explain())
    assert "Everything was asked to run on 'cuda'" in told
    assert "activation on cuda" in told
    assert cnnkernels.explain().wanted is None
    assert "squeeze_excite" in told


def test_explain_without_the_extension(monkeypatch):
    monkeypatch.setattr(_ext, "module", None)
    monkeypatch.setattr(_ext, "error", "the compiled extension is not built: run `pip install -e .`")
    for op in REGISTRY.values():
        op.forget_availability()
    try:
        told = cnnkernels.explain()
        assert {row["cpu tensors"] for row in told.ops.values()} == {"reference"}
        assert "cpu: the compiled extension is not built" in str(told)
    finally:
        for op in REGISTRY.values():
            op.forget_availability()


def test_works_without_triton_and_extension():
    """In a process of its own, with both hidden."""
    program = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('triton', 'cnnkernels._C'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'triton' else find(name, *a)\n"
        "from cnnkernels.cli import main\n"
        "sys.exit(main(['doctor']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "triton is not installed" in done.stdout
    assert "the compiled extension is not built" in done.stdout


def test_command_line():
    for arguments in (["nonsense"], [], ["doctor", "--nonsense"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 2
