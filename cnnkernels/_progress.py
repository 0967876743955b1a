"""A progress bar."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal's standard error, where rich is installed; call what it yields with what has been done."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield lambda name: None
        return
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task: Any = bar.add_task(what, total=total)
        yield lambda name: bar.update(task, advance=1, description=name)
