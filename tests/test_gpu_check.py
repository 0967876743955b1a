"""The pieces of `./dev gpu` that run without a GPU: limits, reports, the small cases."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from cnnkernels import _op

from . import gpu_check, gpu_small_cases
from .conftest import DEVICE
from .gpu_check import Step

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="the CPU run tests these; this run is the GPU's")


def test_without_a_gpu_it_says_so(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert gpu_check.main() == 2
    assert capsys.readouterr().out.count("\n") == 1


REPORTS = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('so far')"
DEAF = "import signal, time; signal.signal(2, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"


@pytest.mark.parametrize(
    ("code", "status", "detail"),
    [
        ("print('fine')", "passed", "fine"),
        ("import sys; print('bad'); sys.exit(3)", "failed", "bad"),
        (REPORTS, "cut short", "so far"),
        (DEAF, "cut short", "deaf"),
    ],
    ids=["passes", "fails", "reports", "deaf"],
)
def test_step(tmp_path, monkeypatch, code, status, detail):
    grace = 1.0 if code == DEAF else 20.0  # a busy machine is slow to start Python and to end it
    monkeypatch.setattr(gpu_check, "GRACE_S", grace)
    step = gpu_check.run_step("step", [sys.executable, "-c", code], tmp_path / "log", grace + 4, {})
    assert (step.status, step.detail) == (status, detail)
    assert step.seconds < 20


def test_step_without_time(tmp_path):
    assert gpu_check.run_step("step", ["/does/not/exist"], tmp_path / "log", 1.0, {}).status == "not run: no time left"


def test_limits_fit_in_nine_minutes():
    """Build and contract table at their limits leave the benchmarks theirs."""
    assert gpu_check.WHOLE_S <= 540 - 2 * gpu_check.GRACE_S / 2
    assert gpu_check.BUILD_S + gpu_check.BENCH_S + gpu_check.GRACE_S < gpu_check.WHOLE_S


def test_contract_counts(tmp_path):
    report = tmp_path / "contract.xml"
    report.write_text(
        """<testsuites><testsuite>
        <testcase name="test_forward[cuda-nms_padded-n-65-cuda-float16-nchw]"/>
        <testcase name="test_forward[cuda-nms_padded-ties-cuda-float32-channels_last]"><failure/></testcase>
        <testcase name="test_gradient[cuda-activation-mish-triton-bfloat16-nchw]"><skipped/></testcase>
        <testcase name="test_table_is_complete"/>
        </testsuite></testsuites>"""
    )
    assert gpu_check.contract_counts(report) == {
        "activation/triton": {"skipped": 1},
        "nms_padded/cuda": {"passed": 1, "failed": 1},
    }
    assert gpu_check.contract_counts(tmp_path / "none.xml") == {}


@pytest.mark.parametrize(
    ("statuses", "passed"),
    [
        (("passed", "passed", "passed"), True),
        (("passed", "passed", "cut short"), True),
        (("passed", "cut short", "passed"), False),
        (("passed", "failed", "passed"), False),
        (("failed", "not run", "not run"), False),
        (("passed", "passed", "failed"), False),
    ],
)
def test_verdict(statuses, passed):
    steps = [Step(n, s, 1.0) for n, s in zip(("build", "contract", "benchmarks"), statuses, strict=True)]
    assert gpu_check.succeeded(steps) == passed


def test_table_and_machine():
    info = gpu_check.machine()
    assert info["torch"] == torch.__version__ and "gpu" in info and "commit" in info
    json.dumps(info)
    text = gpu_check.table(info, [Step("build", "passed", 1.5)], {"nms_padded/cuda": {"passed": 2}}, "the benchmarks")
    assert info["torch"] in text and "nms_padded/cuda" in text and text.endswith("the benchmarks")


def test_failed_build_is_reported(tmp_path, monkeypatch):
    def failing(name, command, log, seconds, env):
        log.write_text("no compiler\n")
        return Step(name, "failed", 1.0, "no compiler")

    monkeypatch.setattr(gpu_check, "run_step", failing)
    assert not gpu_check.check(tmp_path)
    record = json.loads((tmp_path / "check.json").read_text())
    assert not record["passed"] and [s["name"] for s in record["steps"]] == ["build"]
    assert "no compiler" in (tmp_path / "check.txt").read_text()


def test_results_folder():
    folder = gpu_check.results_folder("NVIDIA H100 80GB HBM3", "2026-11-24")
    assert folder == gpu_check.ROOT / "benchmarks" / "results" / "gpu-nvidia-h100-80gb-hbm3-2026-11-24"


def test_small_cases_cover_every_op():
    ran = gpu_small_cases.run("cpu", ("cpu",))
    assert {op for op, backend in ran if backend == "cpu"} == set(_op.REGISTRY)
