"""Which processor this is."""

from __future__ import annotations

import functools
import pathlib
import platform


@functools.cache
def processors() -> tuple[str, ...]:
    """The model name of each processor that the system lists; one entry, the architecture, where it lists none."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = tuple(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return names or (platform.processor() or platform.machine(),)
