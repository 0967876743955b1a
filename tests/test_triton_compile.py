"""Every Triton kernel compiles for sm_80 and sm_90 without a GPU, and spills nothing.

TRITON_INTERPRET is read when a kernel is declared and these tests interpret, so a second process compiles: this file, run as
a program.  SIGNATURES names for each kernel the types of its arguments and some values of its compile-time ones.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

from . import gpu_status
from .build_tree import ROOT

ARCHS = (80, 90)
# kernel -> argument types ("T*": the data type, run with fp32, fp16 and bf16) of those that are not compile-time constants,
# and compile-time values to compile with.  Sizes and strides are i32, as Triton specialises them for small tensors.
# An argument that may be None is a compile-time None in the variant that names it.
BN: dict[str, object] = {"WIDE": False, "BC": 32, "BP": 64}
K3: dict[str, object] = {"KH": 3, "KW": 3}
DOT: dict[str, object] = {"WIDE": False, "EMULATED": False}
SIGNATURES: dict[str, tuple[str, list[dict[str, object]]]] = {
    "activation_forward_kernel": ("T* T* i32 fp32", [{"ACT": a, "BLOCK": 2048} for a in (2, 3, 6)]),
    "activation_backward_kernel": ("T* T* T* i32 fp32", [{"ACT": a, "BLOCK": 2048} for a in (2, 3, 6)]),
    "bn_act_kernel": (
        "T* *fp32 *fp32 *fp32 *fp32 T* T* i32 i32 i32 i32 i32 fp32 fp32",
        [{**BN, "ACT": 6}, {**BN, "ACT": 2, "mean_ptr": None, "var_ptr": None, "residual_ptr": None}],
    ),
    "bn_act_backward_kernel": (
        "T* T* *fp32 *fp32 *fp32 *fp32 T* *fp32 *fp32 i32 i32 i32 i32 i32 i32 fp32 fp32",
        [{**BN, "ACT": 6, "dx_ptr": None}, {**BN, "ACT": 2, "mean_ptr": None, "var_ptr": None}],
    ),
    "bn_act_train_dx_kernel": (
        "T* T* *fp32 *fp32 *fp32 *fp32 *fp32 *fp32 T* i32 i32 i32 i32 i32 fp32 fp32",
        [{**BN, "ACT": 6}, {**BN, "ACT": 2, "weight_ptr": None, "bias_ptr": None}],
    ),
    "dwconv_kernel": (
        "T* T* *fp32 *fp32 T* T* *fp32 *fp32" + 16 * " i32" + " fp32",
        [
            {**BN, **K3, "ACT": 6, "mean_ptr": None, "m2_ptr": None},
            {**BN, **K3, "ACT": 0, "scale_ptr": None, "shift_ptr": None, "residual_ptr": None},
        ],
    ),
    "dwconv_grad_input_kernel": ("T* T* T*" + 15 * " i32", [{**BN, **K3}]),
    "dwconv_grad_weight_kernel": ("T* T* *fp32" + 16 * " i32", [{**BN, **K3, "TAPS": 16}]),
    "pointwise_kernel": (
        "T* T* *fp32 *fp32 T* T* T*" + 8 * " i32" + " fp32",
        [
            {**DOT, "ACT": 6, "BK": 64, "BP": 64, "BC": 16},
            {**DOT, "ACT": 0, "BK": 64, "BP": 64, "BC": 32, "gate_ptr": None, "residual_ptr": None},
            {**DOT, "ACT": 2, "BK": 16, "BP": 16, "BC": 16},
        ],
    ),
    "box_iou_loss_kernel": (
        "T* T* *fp32 i32 fp32",
        [{"KIND": k, "REDUCE": r, "BLOCK": 512} for k, r in ((0, False), (1, True), (2, False), (3, True))],
    ),
    "box_iou_loss_total_kernel": ("*fp32 *fp32 i32", [{"BLOCK": 1024}]),
    "box_iou_loss_backward_kernel": (
        "T* T* *fp32 T* T* i32 i32 fp32",
        [{"KIND": k, "TARGET": t, "BLOCK": 512} for k, t in ((0, True), (1, False), (2, True), (3, True))],
    ),
    "channel_sum_kernel": ("*fp32 *fp32 i32 i32", [{"BC": 32, "BS": 64}]),
    "channel_stats_kernel": ("T* *fp32 *fp32 i32 i32 i32 i32 i32 i32", [BN]),
    "channel_stats_total_kernel": ("*fp32 *fp32 *fp32 *fp32 i32 i32 i32 i32", [{"BC": 32, "BS": 64}]),
    "channel_shuffle_kernel": (
        "*i32 *i32 *i32 *i32 i32 i32 i32 i32 i32 i32",
        [{"LAST": False, "ROWS": 2, "COLUMNS": 1024}, {"LAST": True, "ROWS": 16, "COLUMNS": 128}],
    ),
    "focus_kernel": (
        "*i32 *i32 i32 i32 i32 i32",
        [{"LAST": last, "INVERSE": inverse, "BLOCK": 1024} for last in (False, True) for inverse in (False, True)],
    ),
    "nms_mask_kernel": (
        "*fp32 *fp32 *i32 *fp64 *i64 i32 i32 i32 i32 fp32",
        [{"KIND": k, "POWER": p, "TILE": 64} for k, p in ((0, False), (1, False), (2, True), (3, False))],
    ),
    "nms_scan_kernel": ("*i32 *i64 *i64 *i64 i32 i32 i32 i32", [{"TILE": 64, "BLOCK": 256}]),
    "spp_pool_kernel": (
        "T* T* i32 i32 i32 i32 i32 i32 i32 i32",
        [{"PAIRS": False, "LAST": last, "RADIUS": 2, "BLOCK": 256} for last in (False, True)],
    ),
    "spp_pair_kernel": ("T* *i64 i32 i32 i32 i32", [{"LAST": last, "BLOCK": 256} for last in (False, True)]),
    "spp_gather_kernel": (
        "*i64 T* *fp32 i32 i32 i32 i32 i32 i32",
        [{"LAST": last, "RADIUS": 6, "BLOCK": 256} for last in (False, True)],
    ),
    "squeeze_excite_sum_kernel": (
        "T* T* *fp32 *fp32 i32 i32 i32 i32 i32",
        [{"DOT": d, "BC": 64, "BP": 32} for d in (False, True)],
    ),
    "squeeze_excite_total_kernel": ("*fp32 *fp32 i32 i32 fp32", [{"BC": 1024}]),
    "squeeze_excite_layer_kernel": (
        "T* T* *fp32 *fp32 i32 i32 fp32",
        [{"ACT": 4, "BIAS": b, "BR": 16, "BK": 128} for b in (False, True)],
    ),
    "squeeze_excite_layer_transposed_kernel": (
        "T* *fp32 *fp32 *fp32 i32 i32 fp32 fp32",
        [{"ACT": 4, "IN_GRAD": g, "BR": 32, "BK": 64} for g in (False, True)],
    ),
    "squeeze_excite_gate_gradient_kernel": ("*fp32 *fp32 i32", [{"GATE": g, "BLOCK": 1024} for g in (7, 8)]),
    "squeeze_excite_weight_gradient_kernel": (
        "*fp32 *fp32 T* T* i32 i32 i32 fp32",
        [{"ACT": 4, "BR": 32, "BK": 64}],
    ),
    "squeeze_excite_scale_kernel": (
        "T* *fp32 *fp32 T* i32 i32 i32 i32",
        [{"SHIFT": s, "GATE": 7, "BC": 64, "BP": 32} for s in (False, True)],
    ),
    "upsample_add_kernel": (
        "T* T* T* i32 i32 i32 i32 i32 i32 fp32 fp32",
        [{"LAST": last, "BLOCK": 1024} for last in (False, True)],
    ),
    "upsample_add_backward_kernel": (
        "T* T* i32 i32 i32 i32 i32 i32 fp32 fp32",
        [{"ROWS": 4, "COLUMNS": 4, "LAST": last, "BLOCK": 1024} for last in (False, True)],
    ),
    "weighted_fusion_kernel": (
        "T* T* T* T* *fp32 T* i32 fp32 fp32",
        [
            {"MAPS": 4, "ACT": 6, "BLOCK": 1024},
            {"MAPS": 2, "ACT": 4, "BLOCK": 1024, "x2_ptr": None, "x3_ptr": None},
        ],
    ),
    "weighted_fusion_backward_kernel": (
        "T* T* T* T* T* *fp32 T* T* T* T* *fp32 i32 i32 fp32 fp32",
        [
            {"MAPS": 4, "ACT": 6, "BLOCK": 1024},
            {"MAPS": 3, "ACT": 4, "BLOCK": 1024, "x3_ptr": None, "dx3_ptr": None},
        ],
    ),
    "weighted_fusion_weights_kernel": ("*fp32 *fp32 *fp32 i32 fp32", [{"MAPS": 3, "PROGRAMS": 1024}]),
}
ELEMENTS = ("fp32", "fp16", "bf16")


def compile_kernel(module: str, name: str) -> int:
    """Compiles every variant of a kernel for every architecture; the number of them."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(f"cnnkernels.ops.triton.{module}"), name)
    types, variants = SIGNATURES[name]
    done = 0
    for element in ELEMENTS if "T*" in types else ELEMENTS[:1]:
        for constants in variants:
            dynamic = types.replace("T*", f"*{element}").split()
            assert len(dynamic) + len(constants) - list(constants.values()).count(None) == len(kernel.arg_names), name
            padded = [*dynamic, *["constexpr"] * (len(kernel.arg_names) - len(dynamic))]
            signature = dict(zip(kernel.arg_names, padded, strict=True))  # constants come last
            signature |= dict.fromkeys(constants, "constexpr")
            aligned = {(i,): [["tt.divisibility", 16]] for i, t in enumerate(signature.values()) if t.startswith("*")}
            source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
            for arch in ARCHS:
                built = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": 4})
                assert built.asm["cubin"] and f".target sm_{arch}" in built.asm["ptx"]
                done += 1
    return done


def test_table_names_every_kernel():
    assert set(SIGNATURES) == {name for _, name in gpu_status.triton_kernels()}


@pytest.mark.parametrize("file", sorted({file for file, _ in gpu_status.triton_kernels()}))
def test_compiles(file, tmp_path):
    pytest.importorskip("triton")
    names = [name for f, name in gpu_status.triton_kernels() if f == file]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.test_triton_compile", file.removesuffix(".py"), *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert all(name in done.stdout for name in names)


if __name__ == "__main__":
    for kernel_name in sys.argv[2:]:
        print(kernel_name, compile_kernel(sys.argv[1], kernel_name), flush=True)
