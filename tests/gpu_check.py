"""All that a machine with a GPU can tell: `./dev gpu`, or `python -m tests.gpu_check`, in under 9 minutes, or in what
`--seconds` gives it.

Builds the extension, captures every op and four networks in CUDA graphs, runs the contract table with device=cuda,
compute-sanitizer (if it is installed) on small cases, and the benchmarks; writes benchmarks/results/gpu-<name>-<date>/:
check.json, check.txt, a log per step, and what the benchmarks write.
Each step has a time limit and none runs beyond the whole's; what a limit cuts short is reported as that.
Exit status: 0 all passed, 1 something failed or the contract table was cut short, 2 no GPU.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from xml.etree import ElementTree

import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
WHOLE_S, BUILD_S, CONTRACT_S, SANITIZER_S, BENCH_S = 520.0, 200.0, 240.0, 60.0, 150.0
SANITIZERS = ("memcheck", "racecheck", "initcheck")
STEPS = ("build", "contract", *SANITIZERS, "benchmarks")
GRACE_S = 15.0  # of a step's time, to report what it has after an interrupt


@dataclass
class Step:
    name: str
    status: str  # passed, failed, cut short, or why it did not run
    seconds: float
    detail: str = ""


def output_of(*command: str) -> str:
    """Standard output of a command, "" if it cannot be had."""
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def machine() -> dict[str, Any]:
    """What the results depend on."""
    nvcc = re.search(r"release [\d.]+, V([\d.]+)", output_of("nvcc", "--version"))
    changes = "+changes" if output_of("git", "status", "--porcelain") else ""
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "capability": list(torch.cuda.get_device_capability()) if torch.cuda.is_available() else None,
        "driver": output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
        "nvcc": nvcc.group(1) if nvcc else None,
        "torch": torch.__version__,
        "triton": importlib.metadata.version("triton") if importlib.util.find_spec("triton") else None,
        "python": platform.python_version(),
        "commit": (output_of("git", "rev-parse", "HEAD") or os.environ.get("CNNKERNELS_COMMIT", "")) + changes,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def run_step(name: str, command: Sequence[str], log: pathlib.Path, seconds: float, env: dict[str, str]) -> Step:
    """Runs a command with its output in ``log``; interrupts it GRACE_S before its time is over, then kills it."""
    if seconds <= GRACE_S:
        return Step(name, "not run: no time left", 0.0)
    print(f"{name:<28} ", end="", flush=True)
    start = time.monotonic()
    cut = False
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, **env}, start_new_session=True
        )
        try:
            process.wait(seconds - GRACE_S)
        except subprocess.TimeoutExpired:
            cut = True
            process.send_signal(signal.SIGINT)  # pytest ends with its summary of what it has run
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    took = time.monotonic() - start
    status = "cut short" if cut else "passed" if process.returncode == 0 else "failed"
    lines = log.read_text(errors="replace").strip().splitlines()
    step = Step(name, status, took, lines[-1].strip("= ")[:160] if lines else "")
    print(f"{step.seconds:6.1f} s  {step.status}")
    return step


def contract_counts(report: pathlib.Path) -> dict[str, dict[str, int]]:
    """ "op/backend" -> counts of passed, failed and skipped rows, from pytest's JUnit report."""
    counts: dict[str, Counter[str]] = {}
    if not report.exists():
        return {}
    for case in ElementTree.parse(report).iter("testcase"):
        row = re.fullmatch(r"test_\w+\[cuda-([a-z0-9_]+)-.*-(\w+)-\w+-\w+\]", case.get("name", ""))
        if row is None:
            continue
        tags = {child.tag for child in case}
        outcome = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        counts.setdefault("/".join(row.groups()), Counter())[outcome] += 1
    return {key: dict(count) for key, count in sorted(counts.items())}


def table(info: dict[str, Any], steps: Sequence[Step], contract: dict[str, dict[str, int]], bench: str) -> str:
    lines = [f"{key:<11}{value}" for key, value in info.items()]
    lines += ["", f"{'step':<28}{'time':>8}  result"]
    lines += [f"{s.name:<28}{s.seconds:>6.1f} s  {s.status}{': ' + s.detail if s.detail else ''}" for s in steps]
    if contract:
        lines += ["", f"{'op/backend':<44}{'passed':>8}{'failed':>8}{'skipped':>8}"]
        columns = ("passed", "failed", "skipped")
        lines += [f"{key:<44}" + "".join(f"{row.get(c, 0):>8}" for c in columns) for key, row in contract.items()]
    return "\n".join(lines) + "\n" + (f"\n{bench}" if bench else "")


def _measured(folder: pathlib.Path) -> list[dict[str, Any]]:
    summary = folder / "summary.json"
    return json.loads(summary.read_text())["rows"] if summary.exists() else []  # type: ignore[no-any-return]


def succeeded(steps: Sequence[Step]) -> bool:
    """Nothing failed, the extension was built, and every row of the contract table ran."""
    status = {s.name: s.status for s in steps}
    return "failed" not in status.values() and all(status[n] == "passed" for n in ("build", "contract"))


def workers() -> list[str]:
    """pytest's options for the contract table: most of its time is the compiler's (Triton's) and the fp64 reference's."""
    return ["-n", str(min(os.cpu_count() or 1, 12))] if importlib.util.find_spec("xdist") else []


def check(folder: pathlib.Path, whole: float = WHOLE_S, steps_wanted: Sequence[str] = STEPS) -> bool:
    start = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    python = sys.executable
    steps: list[Step] = []

    def step(name: str, command: Sequence[str], limit: float, keep: float = 0.0, **env: str) -> None:
        if name not in steps_wanted:
            steps.append(Step(name, "not asked for", 0.0))
            return
        keep = keep if "benchmarks" in steps_wanted else 0.0
        left = whole - keep - (time.monotonic() - start)
        steps.append(run_step(name, command, folder / f"{name}.log", min(limit, left), env))

    info = machine()
    print(f"{info['gpu']}, torch {info['torch']}, commit {info['commit'][:10]}; results in {folder}")
    step("build", [python, "setup.py", "build_ext", "--inplace"], BUILD_S)
    if steps[0].status in ("passed", "not asked for"):
        pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        report = folder / "contract.xml"
        files = ["tests/test_cuda_graphs.py", "tests/test_on_gpu.py", "tests/test_contract.py"]
        rows = ["-m", "gpu", *files, "--tb=short", *workers(), f"--junitxml={report}"]
        step("contract", [*pytest, *rows], CONTRACT_S, keep=BENCH_S, CNNKERNELS_TEST_DEVICE="cuda")
        sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
        for tool in SANITIZERS:
            if sanitizer is None:
                steps.append(Step(tool, "not run: compute-sanitizer is not installed", 0.0))
                continue
            small = [sanitizer, "--tool", tool, "--error-exitcode", "9", python, "-m", "tests.gpu_small_cases"]
            # Each tensor an allocation of its own, so that a step outside of one is seen.
            step(tool, small, SANITIZER_S, keep=BENCH_S, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        bench = {"CNNKERNELS_BENCH_DEVICE": "cuda", "CNNKERNELS_BENCH_OUT": str(folder)}
        step("benchmarks", [*pytest, "benchmarks/", "--benchmark-only"], BENCH_S, **bench)
    contract = contract_counts(folder / "contract.xml")
    summary = folder / "summary.txt"
    text = table(info, steps, contract, summary.read_text() if summary.exists() else "")
    passed = succeeded([*steps, Step("contract", "not run", 0.0)] if len(steps) == 1 else steps)
    measured = sorted({f"{row['op']}/{row['backend']}" for row in _measured(folder)})
    record = {
        "machine": info,
        "passed": passed,
        "measured": measured,
        "steps": [asdict(s) for s in steps],
        "contract": contract,
    }
    (folder / "check.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / "check.txt").write_text(text)
    print(f"\n{text}\nwritten: {folder}/check.json, check.txt; {time.monotonic() - start:.0f} s")
    return passed


def results_folder(gpu: str, date: str) -> pathlib.Path:
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    return ROOT / "benchmarks" / "results" / f"gpu-{slug}-{date}"


def main(arguments: Sequence[str] = ()) -> int:
    parser = argparse.ArgumentParser(
        prog="./dev gpu", description="build, contract table, sanitizer, benchmarks on a GPU"
    )
    parser.add_argument("--seconds", type=float, default=WHOLE_S, help="time for all of it (default %(default)s)")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS, metavar="STEP", help=", ".join(STEPS))
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(f"no GPU here: torch {torch.__version__} finds no CUDA device, and nothing was run")
        return 2
    passed = check(
        results_folder(torch.cuda.get_device_name(), time.strftime("%Y-%m-%d")), options.seconds, options.only
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
