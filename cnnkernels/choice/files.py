"""The user's tables: one file per device, in ``CNNKERNELS_CACHE`` or else in the user's cache folder.

``CNNKERNELS_CACHE=off`` turns all measured choices off, those shipped with the package too.
"""

from __future__ import annotations

import os
import pathlib
import re
import stat
import tempfile
import warnings

from cnnkernels import _files
from cnnkernels.choice import table as tables
from cnnkernels.choice.table import Damaged, Table


def enabled() -> bool:
    return os.environ.get("CNNKERNELS_CACHE") != "off"


def folder() -> pathlib.Path:
    named = os.environ.get("CNNKERNELS_CACHE")
    if named:
        return pathlib.Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if base.startswith("~"):  # a user without a home
        base = tempfile.gettempdir()
    return pathlib.Path(base) / "cnnkernels"


def path_of(device: str) -> pathlib.Path:
    """Of the table of a device: ``nvidia-h200.json``."""
    return folder() / (re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")[:100] + ".json")


def load(path: pathlib.Path) -> Table:
    """``Damaged`` if there is no table in the file, OSError if it cannot be read."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe in its place must not hold us up
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Damaged("expected a regular file")
        if status.st_size > tables.MAX_BYTES:
            raise Damaged(f"expected at most {tables.MAX_BYTES} bytes, got {status.st_size}")
        return tables.parse(file.read(tables.MAX_BYTES + 1))


def misfit(found: Table, here: Table) -> str | None:
    """Why what was measured for ``found`` says nothing about ``here``."""
    for name in ("device", "torch", "cnnkernels"):
        if getattr(found, name) != getattr(here, name):
            return f"it is for {name} {getattr(found, name)}, this is {getattr(here, name)}"
    return None


def read(path: pathlib.Path, here: Table) -> tuple[Table | None, str]:
    """The table, if there is one that fits, and what was found.  Warns of a file that should not be as it is."""
    try:
        found = load(path)
    except (FileNotFoundError, NotADirectoryError):
        return None, "no file"
    except (Damaged, OSError) as e:
        wrong = e.strerror or str(e) if isinstance(e, OSError) else str(e)
        warnings.warn(f"cnnkernels ignores the measured choices in {path}: {wrong}", RuntimeWarning, stacklevel=2)
        return None, f"ignored: {wrong}"
    reason = misfit(found, here)
    if reason is not None:
        return None, f"ignored: {reason}"
    return found, f"fits, {len(found)} choices"


def write(path: pathlib.Path, new: Table) -> str | None:
    """Adds the table's choices to the file; why not, after a warning, where it cannot be written.

    The file is replaced as a whole.  Of two processes that write at the same moment one may lose what it measured.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        merged = new
        try:
            old = load(path)
            if misfit(old, new) is None:
                merged = Table(new.device, new.torch, new.cnnkernels, new.source, _merged(old.choices, new.choices))
        except (Damaged, FileNotFoundError):
            pass  # nothing there worth keeping
        _files.write_whole(path, tables.render(merged))
    except OSError as e:
        reason = e.strerror or str(e)
        warnings.warn(f"cnnkernels cannot keep its measured choices in {path}: {reason}", RuntimeWarning, stacklevel=2)
        return reason
    return None


def _merged(old: tables.Choices, new: tables.Choices) -> tables.Choices:
    """New ones last, so that they are the last to be dropped."""
    merged = {op: dict(chosen) for op, chosen in old.items()}
    for op, chosen in new.items():
        kept = {key: backend for key, backend in merged.get(op, {}).items() if key not in chosen}
        merged[op] = kept | chosen
    return merged
