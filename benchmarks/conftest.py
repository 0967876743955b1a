"""`pytest benchmarks/ --benchmark-only`: the arena fixture and the summary at the end."""

from __future__ import annotations

import os
import pathlib

import pytest
import torch

from . import summary
from .arena import DEVICE, Arena

_arena = Arena()


@pytest.fixture(scope="session")
def arena() -> Arena:
    return _arena


def pytest_collection_modifyitems(config, items):
    if DEVICE == "cuda" and not torch.cuda.is_available():
        for item in items:
            item.add_marker(pytest.mark.skip(reason="CNNKERNELS_BENCH_DEVICE=cuda, but there is no CUDA device"))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    if _arena.done:
        folder = pathlib.Path(os.environ.get("CNNKERNELS_BENCH_OUT", "out/bench"))
        terminalreporter.write_line(summary.write(list(_arena.done.values()), folder))
