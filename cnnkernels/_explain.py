"""``cnnkernels.explain()``: what runs where, why not something else, and what fell back so far."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cnnkernels import _backend, _ext
from cnnkernels._op import REGISTRY, explain_rows
from cnnkernels.choice import store


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in aligned columns, the first row being the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def environment() -> dict[str, str]:
    """Versions and hardware, by name."""
    facts = {
        "cnnkernels": importlib.import_module("cnnkernels").__version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})",
        "triton": importlib.metadata.version("triton") if importlib.util.find_spec("triton") else "not installed",
        "threads": str(torch.get_num_threads()),
    }
    if _ext.module is None:
        facts["extension"] = _ext.error or "not loaded"
    else:
        info = _ext.module.build_info()
        cuda = f"CUDA {info['cuda']} for {info['cuda_architectures']}" if info["cuda"] else "no CUDA"
        facts["extension"] = f"built against torch {info['torch']} by compiler {info['compiler']}, {cuda}"
        facts["cpu instruction set"] = _ext.module.cpu_isa()
        past = (
            "straight to the kernels" if _ext.module.direct else "through torch.ops (this torch has no torch._C._aoti)"
        )
        facts["plain cpu calls"] = past
    if torch.cuda.is_available():
        facts["gpu"] = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    else:
        facts["gpu"] = "none visible to torch"
    return facts


@dataclass(frozen=True)
class Explanation:
    """Prints as a report; the parts are there for programs."""

    environment: dict[str, str]
    ops: dict[str, dict[str, str]]
    """op -> {"cpu tensors": backend in use, "cuda tensors": alike, "why not cpu" (cuda, triton): "" or the reason}"""
    fallbacks: dict[tuple[str, str, str], int]
    """(op, backend that could not run, reason) -> number of calls that ``reference`` served instead."""
    wanted: str | None
    """The backend asked for by ``use_backend`` or CNNKERNELS_BACKEND."""
    choices: dict[tuple[str, str, str], int]
    """(op, device, backend other than the default) -> number of shapes it was measured to be fastest for."""

    def __str__(self) -> str:
        width = max(map(len, self.environment)) + 2
        parts = ["\n".join(f"{name:<{width}}{value}" for name, value in self.environment.items())]
        rows = [(op, row["cpu tensors"], row["cuda tensors"]) for op, row in self.ops.items()]
        parts.append(table([("op", "cpu tensors", "cuda tensors"), *rows]))
        if self.wanted:
            parts.append(f"Everything was asked to run on {self.wanted!r}, by use_backend or CNNKERNELS_BACKEND.")
        reasons: dict[tuple[str, str], list[str]] = {}
        for op, row in self.ops.items():
            for backend in ("cpu", "cuda", "triton"):
                if row[f"why not {backend}"]:
                    reasons.setdefault((backend, row[f"why not {backend}"]), []).append(op)
        if reasons:
            lines = ["Not available:"]
            for (backend, reason), ops in reasons.items():
                lines.append(f"  {backend}: {reason} ({'every op' if len(ops) == len(self.ops) else ', '.join(ops)})")
            parts.append("\n".join(lines))
        if self.choices:
            lines = ["Measured to be faster than the default (cnnkernels.tune):"]
            lines += [
                f"  {op} on {device} tensors: {backend} for {count} shapes"
                for (op, device, backend), count in self.choices.items()
            ]
            parts.append("\n".join(lines))
        if self.fallbacks:
            lines = ["Calls that reference served instead:"]
            lines += [
                f"  {op} on {backend}, {count} times: {why}" for (op, backend, why), count in self.fallbacks.items()
            ]
            parts.append("\n".join(lines))
        else:
            parts.append("No call has fallen back to reference.")
        return "\n\n".join(parts)

    __repr__ = __str__


def explain() -> Explanation:
    """What is active for each op on CPU and on CUDA tensors, why other backends are not, and what fell back so far."""
    ops = {name: dict(row) for name, row in explain_rows().items()}
    return Explanation(environment(), ops, dict(_backend.fallbacks), _backend.wanted(), _choices())


def _choices() -> dict[tuple[str, str, str], int]:
    found: Counter[tuple[str, str, str]] = Counter()
    for device in [torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))]:
        for name, chosen in store.known(device).choices.items():
            op = REGISTRY.get(name)  # a table may be of a version with other ops
            others = [] if op is None else [b for b in chosen.values() if b != op.default_backend(device.type)]
            found.update((name, str(device), backend) for backend in others)
    return dict(found)
