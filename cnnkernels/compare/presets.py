"""The survey's own comparisons: groups of networks, depthwise-separable convolution, the ShuffleNetV2 guidelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels import _backend
from cnnkernels._timing import interleaved_medians
from cnnkernels.compare.measure import Settings
from cnnkernels.compare.output import grid
from cnnkernels.models.cost import cost
from cnnkernels.nn import ConvBNAct, FusedBlock

NETWORKS: dict[str, tuple[str, ...]] = {
    "inception": (
        *("googlenet", "bn_inception", "inception_v3", "inception_v4", "inception_resnet_v1", "inception_resnet_v2"),
        *("alexnet", "vgg16", "resnet50", "resnet101"),
    ),
    "squeezenet": ("alexnet", "squeezenet1_0", "squeezenet1_1"),
}
"""Presets that are lists of networks."""


@dataclass
class Measured:
    """One block of a table: multiply-adds and weights counted, times measured, in seconds per batch."""

    name: str
    weights: int
    macs: int
    """Of one image."""
    eager: float | None = None
    fused: float | None = None


@dataclass
class Table:
    """title, rows and what they say."""

    title: str
    batch: int
    rows: list[Measured]
    verdict: str

    def text(self) -> str:
        lines = [["block", "weights", "MMAC", "eager images/s", "fused images/s", "fused / eager"]]
        for r in self.rows:
            lines.append(
                [
                    r.name,
                    f"{r.weights:,}",
                    f"{r.macs / 1e6:.2f}",
                    "" if r.eager is None else f"{self.batch / r.eager:,.0f}",
                    "" if r.fused is None else f"{self.batch / r.fused:,.0f}",
                    "" if r.eager is None or r.fused is None else f"{r.eager / r.fused:.2f}x",
                ]
            )
        return f"{self.title}\n\n{grid(lines)}\n\n{self.verdict}\n"


def _weights(model: nn.Module) -> int:
    """Numbers in the convolutions' filters: what the papers count."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))


def _tolerance(settings: Settings) -> float:
    return 1e-4 if settings.dtype is torch.float32 else 0.1


def _measure(blocks: dict[str, nn.Module], shape: Sequence[int], batch: int, settings: Settings) -> list[Measured]:
    """shape: [C, H, W] of each block's input, C as its first convolution takes it."""
    rows, calls = [], []

    def wait(y: Tensor) -> Tensor:
        if y.is_cuda:
            torch.cuda.synchronize()
        return y

    for name, block in blocks.items():
        first = next(m for m in block.modules() if isinstance(m, nn.Conv2d))
        one = (1, first.in_channels, *shape[1:])
        rows.append(Measured(name, _weights(block), cost(block, one).macs))
        block.eval().to(settings.device, settings.dtype)
        x = torch.randn(batch, *one[1:], device=settings.device, dtype=settings.dtype)
        x = x.contiguous(memory_format=torch.channels_last)

        def eager(block: nn.Module = block, x: Tensor = x) -> Tensor:
            with _backend.use_backend("reference"):
                return wait(block(x))

        def fused(block: nn.Module = block, x: Tensor = x) -> Tensor:
            return wait(block(x))

        if settings.time:
            with torch.inference_mode():
                torch.testing.assert_close(
                    fused(), eager(), rtol=0.0, atol=_tolerance(settings) * eager().abs().max().item()
                )
        calls += [eager, fused]
    if settings.time:
        with torch.inference_mode():
            times = interleaved_medians(calls, settings.rounds, settings.seconds * len(blocks))
        for row, a, b in zip(rows, times[::2], times[1::2], strict=True):
            row.eager, row.fused = a, b
    return rows


def _unit(c_in: int, c_out: int, kernel: int = 1, groups: int = 1, act: str = "relu") -> ConvBNAct:
    return ConvBNAct(c_in, c_out, kernel, groups=groups, act=act)


# ---- plain against depthwise-separable convolution -------------------------------------------------------------------


def _pair(c_in: int, c_out: int) -> tuple[nn.Module, nn.Module]:
    separable = nn.Sequential(_unit(c_in, c_in, 3, groups=c_in), _unit(c_in, c_out))
    return _unit(c_in, c_out, 3), separable


def separable(settings: Settings = Settings(), batch: int = 1) -> list[Table]:  # noqa: B008
    """Howard et al. 2017, "MobileNets", arXiv:1704.04861, section 3.1; first the survey's example of 10x10x3 -> 16."""
    tables = []
    for c_in, c_out, size in ((3, 16, 10), (64, 128, 56), (256, 256, 14), (512, 512, 7)):
        plain, split = _pair(c_in, c_out)
        rows = _measure({"3x3": plain, "3x3 depthwise + 1x1": split}, (c_in, size, size), batch, settings)
        a, b = rows[0].weights, rows[1].weights
        verdict = f"{b} weights instead of {a}: {100 * (1 - b / a):.0f} % fewer."
        if rows[0].fused and rows[1].fused:
            verdict += f"  {rows[0].macs / rows[1].macs:.1f} times fewer multiply-adds, "
            verdict += f"{rows[0].fused / rows[1].fused:.1f} times as fast (fused)."
        tables.append(Table(f"{size}x{size}x{c_in} -> {c_out}", batch, rows, verdict))
    return tables


# ---- the guidelines of ShuffleNetV2 ----------------------------------------------------------------------------------


def _repeat(make: Callable[[], nn.Module], times: int = 10) -> nn.Module:
    return nn.Sequential(*(make() for _ in range(times)))


class _Parallel(nn.Module):
    """Branches over one x, and their sum: the paper's fragmented blocks, appendix figure 1 (d) and (e)."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = (branch(x) for branch in self.branches)
        for y in rest:
            first = first + y
        return first


class _Bottleneck(FusedBlock):
    """1x1, 3x3, 1x1 with or without ReLU and shortcut: the block of the paper's table 4."""

    def __init__(self, channels: int, relu: bool, shortcut: bool) -> None:
        super().__init__()
        act, middle = "relu" if relu else "identity", channels // 4
        self.conv1, self.conv2 = _unit(channels, middle, act=act), _unit(middle, middle, 3, act=act)
        last = _unit(middle, channels, act=act)
        self.conv3, self.bn3, self.act3 = last.conv, last.bn, last.act
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        return self.fused(y, "conv3", "bn3", "act3", shortcut=x if self.shortcut else None)


def _verdict(rows: Sequence[Measured], guideline: str) -> str:
    """Compares the first block, which the guideline recommends, with the slowest of the others."""
    if rows[0].fused is None:
        return guideline
    parts = []
    for kind in ("eager", "fused"):
        slowest = max(rows[1:], key=lambda r: getattr(r, kind))
        ratio = getattr(slowest, kind) / getattr(rows[0], kind)
        agrees = "holds" if ratio > 1.05 else "does not show" if ratio > 0.95 else "is reversed"
        parts.append(f"{kind}: {agrees} here ({slowest.name} takes {ratio:.2f} times as long as {rows[0].name})")
    return f"{guideline}\n" + "\n".join(parts)


def guidelines(settings: Settings = Settings(), batch: int = 1, size: int = 56) -> list[Table]:  # noqa: B008
    """G1 to G4 of Ma, Zhang, Zheng, Sun 2018, arXiv:1807.11164, section 2, with BatchNorm and ReLU, on this machine."""
    g1 = {
        f"{a}:{b} ({c1}, {c2})": _repeat(lambda c1=c1, c2=c2: nn.Sequential(_unit(c1, c2), _unit(c2, c1)))  # type: ignore[misc]
        for a, b, c1, c2 in ((1, 1, 128, 128), (1, 2, 90, 180), (1, 6, 52, 312), (1, 12, 36, 432))
    }
    g2 = {
        f"{g} groups ({c})": _repeat(lambda g=g, c=c: _unit(c, c, groups=g))  # type: ignore[misc]
        for g, c in ((1, 128), (2, 180), (4, 256), (8, 360))
    }
    g3 = {
        "1 fragment (128)": _repeat(lambda: _unit(128, 128)),
        "2 in series (90)": _repeat(lambda: nn.Sequential(_unit(90, 90), _unit(90, 90))),
        "4 in series (64)": _repeat(lambda: nn.Sequential(*(_unit(64, 64) for _ in range(4)))),
        "2 in parallel (90)": _repeat(lambda: _Parallel([_unit(90, 90) for _ in range(2)])),
        "4 in parallel (64)": _repeat(lambda: _Parallel([_unit(64, 64) for _ in range(4)])),
    }
    g4 = {
        name: _repeat(lambda relu=relu, add=add: _Bottleneck(128, relu, add))  # type: ignore[misc]
        for name, relu, add in (
            ("no ReLU, no shortcut", False, False),
            ("ReLU", True, False),
            ("shortcut", False, True),
            ("ReLU and shortcut", True, True),
        )
    }
    texts = {
        "G1: equal channel widths need the least memory access (1x1 convolutions, c1:c2)": g1,
        "G2: many groups cost memory access (1x1 convolutions)": g2,
        "G3: fragments cost parallelism (1x1 convolutions)": g3,
        "G4: element-wise operations cost time (bottleneck, 128 channels)": g4,
    }
    tables = []
    for text, blocks in texts.items():
        title, _, rule = text.partition(": ")
        rows = _measure(blocks, (0, size, size), batch, settings)
        tables.append(Table(f"{title}  {size}x{size}, batch {batch}, 10 blocks", batch, rows, _verdict(rows, rule)))
    return tables


TABLES: dict[str, Callable[..., list[Table]]] = {"separable": separable, "guidelines": guidelines}
"""Presets that measure blocks."""


def records(tables: Sequence[Table]) -> list[dict[str, Any]]:
    return [
        {"title": t.title, "batch": t.batch, "verdict": t.verdict, "rows": [vars(r) for r in t.rows]} for t in tables
    ]
