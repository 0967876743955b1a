"""``explain()`` and ``cnnkernels doctor``, also where parts are missing."""

import re
import subprocess
import sys

import pytest
import torch

import cnnkernels
from cnnkernels import _backend, _doctor, _ext, _selftest, cli, ops
from cnnkernels._op import REGISTRY
from cnnkernels.choice import store

from .test_choice import _forget, cache  # noqa: F401  (a fixture)


def test_every_public_op_has_a_self_test():
    assert set(_selftest.SAMPLES) == set(ops.__all__)


def test_doctor_passes(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for name in ops.__all__:
        assert name in out
    assert "self-tests passed" in out
    assert torch.__version__ in out


def sections(out):
    """The block for a bug report, and the rows of its table of self-tests by op."""
    (block,) = re.findall(r"^```text\n(.*?)^```$", out, re.MULTILINE | re.DOTALL)
    table = block[block.index("Self-tests, ") :].splitlines()[3:]
    return block, {line.split()[0]: re.split(r" {2,}", line) for line in table if "  " in line}


def test_every_backend_is_tried(capsys):
    """With what this process has: kernels for the CPU, Triton's interpreter, no GPU."""
    pytest.importorskip("triton")
    assert cli.main(["doctor"]) == 0
    _, rows = sections(capsys.readouterr().out)
    assert set(rows) == set(ops.__all__)
    if torch.cuda.is_available() or _ext.module is None:
        pytest.skip("the table expected here is that of a CPU with the extension")
    assert rows["bn_act"] == ["bn_act", "cpu", "cpu", "ok", "ok", "-", "ok", "ok"]
    assert rows["detection_candidates"] == ["detection_candidates", "cpu", "cpu", "ok", "ok", "-", "-", "ok"]


@pytest.fixture
def one_sample(monkeypatch):
    monkeypatch.setattr(_selftest, "SAMPLES", {"mish": _selftest.SAMPLES["mish"]})


def test_the_report_has_what_a_maintainer_asks_for(capsys, monkeypatch, one_sample):
    monkeypatch.setattr(_backend, "fallbacks", {})
    monkeypatch.setenv("CNNKERNELS_CPU_ISA", "avx512")
    cli.main(["doctor"])
    block, _ = sections(capsys.readouterr().out)
    for line in (
        "torch ",
        "processor ",
        "abi ",
        "instruction sets ",
        "nvcc ",
        "gpu ",
        "choices on cpu ",
        "CNNKERNELS_CPU_ISA ",
    ):
        assert re.search(f"^{line}.*[^ ]", block, re.MULTILINE), line
    assert re.search(
        r"^choices on cpu .* shipped for cpu \w+; .*\.json: off, by CNNKERNELS_CACHE$", block, re.MULTILINE
    )
    assert "No call has fallen back to reference." in block


def test_where_choices_are_and_whether_they_fit(cache, capsys, one_sample):  # noqa: F811
    def line():
        _forget()
        cli.main(["doctor"])
        return re.search(r"^choices on cpu .*$", capsys.readouterr().out, re.MULTILINE)[0]

    assert line().endswith(": no file")
    known = store.known(torch.device("cpu"))
    known.learn("mish", "a", "cpu")
    known.save()
    assert line().endswith("fits, 1 choices")
    text = known.path.read_text()
    known.path.write_text(text.replace(torch.__version__, "1.0"))
    assert line().endswith(f"ignored: it is for torch 1.0, this is {torch.__version__}")
    known.path.write_text(text[:40])
    with pytest.warns(RuntimeWarning, match="ignores the measured choices"):
        assert "ignored: expected JSON" in line()


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("/home/ada/.cache/x and /home/ada: no", "~/.cache/x and ~: no"),
        ("/scratch/ada/y, C:\\Users\\ada\\z", "/scratch/<user>/y, C:\\Users\\<user>\\z"),
        ("/home/adam/x, /home/ada.d/x", "/home/adam/x, /home/ada.d/x"),
    ],
)
def test_no_names_in_the_report(text, want, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    assert _doctor.without_names(text) == want


def test_an_account_without_a_name(monkeypatch):
    def unknown():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setenv("HOME", "/")
    monkeypatch.setattr("getpass.getuser", unknown)
    assert _doctor.without_names("/opt/x") == "/opt/x"


def test_doctor_finds_a_wrong_kernel(monkeypatch, capsys):
    op = REGISTRY["activation"]
    if op.default_backend("cpu") != "cpu":
        pytest.skip("needs the built extension")
    monkeypatch.setattr(op, "native", lambda native, x, act: torch.zeros_like(x))
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "\n  mish on cpu tensors, asked to run on cpu: differs from reference: [0.0, 0.0, 0.0] instead of [" in out
    _, rows = sections(out[: out.index("Failures:")] + "```\n")
    assert rows["mish"][4] == "FAILED" and rows["mish"][7] == rows["bn_act"][4] == "ok"
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
