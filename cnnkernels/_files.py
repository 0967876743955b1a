"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import pathlib
import tempfile


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Replaces the file once all of its new content is on disk; an OSError leaves what was there."""
    path = pathlib.Path(path).resolve()
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=path.suffix)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's files are for their owner alone
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
