"""Small calls of every op, forward and backward, for a tool that watches every access: compute-sanitizer.

`python -m tests.gpu_small_cases` runs the contract table's small rows on the GPU's backends, without comparing results.
"""

from __future__ import annotations

import sys
from collections import Counter

import torch
from torch import Tensor

import cnnkernels
from cnnkernels import _op

from .cases import CASES, TABLE
from .cases.table import Case

ELEMENTS = 4000  # of all arguments together
ROWS_PER_OP = 3


def small_cases() -> list[Case]:
    """The first rows of every op that are small and not empty."""
    taken: Counter[str] = Counter()
    rows = []
    for case in CASES:
        size = sum(a.numel() for a in case.args() if isinstance(a, Tensor))
        if not case.slow and 0 < size <= ELEMENTS and taken[case.op] < ROWS_PER_OP:
            taken[case.op] += 1
            rows.append(case)
    return rows


def run(device: str, backends: tuple[str, ...]) -> set[tuple[str, str]]:
    """The (op, backend) pairs that ran."""
    ran = set()
    for case in small_cases():
        for backend in (b for b in backends if b in case.backends):
            for dtype, layout in ((torch.float32, "nchw"), (torch.float16, "channels_last")):
                args = case.build(dtype, layout, device)
                with cnnkernels.use_backend(backend), cnnkernels.record_backends() as runs:
                    differentiable = TABLE[case.op].grad_tolerance is not None
                    for a in args if differentiable else ():
                        if isinstance(a, Tensor) and a.is_floating_point():
                            a.requires_grad_()
                    out = _op.REGISTRY[case.op](*args)
                    outputs = [o for o in ([out] if isinstance(out, Tensor) else out) if o.requires_grad]
                    if outputs:
                        torch.autograd.backward(outputs, [torch.ones_like(o) for o in outputs])
                ran |= {(r.op, r.backend) for r in runs}
    if device == "cuda":
        torch.cuda.synchronize()
    return ran


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("no CUDA device")
    for op, backend in sorted(run("cuda", ("cuda", "triton"))):
        print(f"{op} on {backend}")
