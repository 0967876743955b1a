"""Writes docs/gpu-status.md: `python -m tests.gpu_status`.  What has been done with each GPU kernel, and when."""

from __future__ import annotations

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "gpu-status.md"
CHECKED = "2026-11-26"  # when the columns that need no GPU were last seen to hold
HEAD = """# What has been checked of each GPU kernel

Written by `python -m tests.gpu_status`; a test keeps the list equal to the code's. All columns but the last two are what
`./dev test` repeats, last seen whole on {date} (commit 03e3f99, in a clean clone).  The last two
come from runs on GPUs, committed in `benchmarks/results/gpu-*`.

- compiled: CUDA by nvcc 13.0, register spills being errors, within `tests/budgets/cuda.json`; Triton by its compiler
  (3.6), without a GPU (`tests/test_triton_compile.py`).
- executed on the CPU: the CUDA source compiled for the CPU (`tests/host_cuda`), through the contract table and by
  drivers: plain, with ASan + UBSan, and with TSan, which sees races between the threads of a block.
- interpreted: by Triton's interpreter (3.6), through the contract table.
- run on a GPU: rows of the contract table that passed there on this backend, of all ops in the file; none failed.
- measured: a benchmark that launches it is in the table of that run, or of an earlier one (with the kernel as it was then).

Both runs are of an H200 on 2026-11-26 (torch 2.11.0+cu130, triton 3.6.0; each `check.json` has every step), in sessions
that were cut short.  `gpu-nvidia-h200-2026-11-26`: 13,666 of the table's rows then, on all backends; racecheck reports writes
of one element by several threads within the reductions of two Triton kernels (`squeeze_excite_layer_kernel`,
`channel_stats_total_kernel`; of equal values, it seems, as their results are right), and nothing in a CUDA kernel.
`gpu-nvidia-h200-2026-11-26-b`: the CUDA backend of all ops once more, after depthwise convolutions and `bn_act` got other
kernels; memcheck of depthwise and 1x1 convolutions without an error, while racecheck and initcheck have not seen the new
kernels; the Triton kernels that are younger than the first run.  Of Triton's rows of `pointwise_conv_bn_act` 273 passed; the 35
that failed are gradients, whose formula is the reference's and was computed in TF32 (the same rows passed with CUDA when that
was mended; with Triton they have not been run again).  What training takes is known of some ops only: at batch 1 it is
mostly Python's time to queue the calls.

Every op but `nms` was captured in CUDA graphs there, MobileNetV3, ShuffleNetV2, EfficientNet-B0 and YOLOX-nano (with its NMS)
were, and what `optimize` makes of the first three; AOTInductor packages of MobileNetV3 and YOLOX-nano were loaded in another
process; calls on CUDA tensors past the dispatcher gave the dispatcher's results to the bit (`tests/test_on_gpu.py`).

`detection_candidates` has no GPU kernel: calls on CUDA tensors are computed by `reference`.  First convolutions, max pooling,
classifiers, inverted residuals and trunks as one call exist on the CPU only; on a GPU their modules run, on the ops that they
consist of.
"""


def cuda_kernels() -> list[tuple[str, str]]:
    """(file, kernel) of every __global__ function."""
    found = []
    for path in sorted((ROOT / "csrc" / "cuda").glob("*.cuh")):
        names = re.findall(
            r"__global__\s+void\s+(?:__launch_bounds__\([^;{]*?\)\s+)?(\w+_kernel)\s*\(", path.read_text()
        )
        found += [(path.name, name) for name in names]
    return found


def triton_kernels() -> list[tuple[str, str]]:
    found = []
    for path in sorted((ROOT / "cnnkernels" / "ops" / "triton").glob("*.py")):
        found += [(path.name, name) for name in re.findall(r"^def (\w+_kernel)\(", path.read_text(), re.MULTILINE)]
    return found


IN_NO_BENCHMARK = re.compile(
    r"(dwconv|dwconv_grad_input|spp)_any(_backward)?_kernel"  # sizes, strides and dilations that none has
    r"|(se|squeeze_excite)_(layer_transposed|gate_gradient|weight_gradient)_kernel"  # a gradient that none computes
)


def benchmark_of(file: str, kernel: str) -> str:
    """How the names of the benchmarks begin that launch a kernel."""
    family = file.split("_")[0].split(".")[0]
    if IN_NO_BENCHMARK.fullmatch(kernel):
        return "(none)"
    if family != "dwconv":
        return {"nms": "diou nms", "box": "diou loss"}.get(family, family)
    return "dwconv_bn_act_train" if "grad" in kernel or "stats" in kernel else "dwconv_bn_act"


def gpu_run(backend: str, file: str, kernel: str) -> str:
    """Two cells: the rows that passed in the latest committed run in which none failed, and when the op was measured."""
    family = file.split("_")[0].split(".")[0]
    runs = [json.loads(p.read_text()) for p in sorted(ROOT.glob("benchmarks/results/gpu-*/check.json"), reverse=True)]
    name = benchmark_of(file, kernel)
    measured = [any(m.startswith(name) and m.endswith(f"/{backend}") for m in run.get("measured", ())) for run in runs]
    for i, run in enumerate(runs):
        rows = [v for k, v in run["contract"].items() if k.startswith(family) and k.endswith(f"/{backend}")]
        if rows and all(row.get("passed") and not row.get("failed") for row in rows):
            passed = sum(row["passed"] for row in rows)
            when = "yes" if measured[i] else "earlier" if any(measured[i:]) else "no"
            return f"{passed} rows, {run['machine']['gpu']}, {run['machine']['date'][:10]} | {when}"
    return "not yet | no"


def page() -> str:
    lines = [HEAD.format(date=CHECKED)]
    lines += ["## CUDA", "", "| file | kernel | compiled | executed on the CPU | run on a GPU | measured |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for file, name in cuda_kernels():
        lines.append(
            f"| {file} | `{name}` | sm_80, sm_90 | plain, ASan + UBSan, TSan | {gpu_run('cuda', file, name)} |"
        )
    lines += ["", "## Triton", "", "| file | kernel | compiled | interpreted | run on a GPU | measured |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for file, name in triton_kernels():
        lines.append(f"| {file} | `{name}` | sm_80, sm_90 | yes | {gpu_run('triton', file, name)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
    print(f"{PAGE}: {len(cuda_kernels())} CUDA and {len(triton_kernels())} Triton kernels")
