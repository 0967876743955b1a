"""What this process knows: the tables shipped with the package, over them the user's own, over these what it measured."""

from __future__ import annotations

import functools
import pathlib
import warnings
from dataclasses import dataclass, field

import torch

from cnnkernels import _ext, _machine
from cnnkernels.choice import files
from cnnkernels.choice import table as tables
from cnnkernels.choice.table import Choices, Damaged, Table


@dataclass
class Known:
    """Choices for one device."""

    kind: str
    """What a shipped table for it is named after."""
    here: Table
    """Without choices: the header of a table that fits."""
    path: pathlib.Path
    note: str
    """What was found at ``path``."""
    shipped: int
    """Choices that came with the package."""
    choices: Choices
    measured: Choices = field(default_factory=dict)
    """In this process, and not yet written."""

    def learn(self, op: str, key: str, backend: str) -> None:
        for choices in (self.choices, self.measured):
            choices.setdefault(op, {})[key] = backend

    def save(self) -> None:
        if self.measured and files.enabled():
            new = Table(self.here.device, self.here.torch, self.here.cnnkernels, "measured here", self.measured)
            reason = files.write(self.path, new)
            self.note = f"written, {len(new)} new choices" if reason is None else f"not written: {reason}"
        self.measured = {}


_known: dict[torch.device, Known] = {}
tuning = False
"""Whether a call whose arguments nothing is known about is measured."""


def known(device: torch.device) -> Known:
    """Read at the first call for a device."""
    if device not in _known:
        _known[device] = _read(device)
    return _known[device]


def loaded() -> list[Known]:
    return list(_known.values())


def forget() -> None:
    """Everything is read anew when it is asked for next."""
    _known.clear()


def _read(device: torch.device) -> Known:
    here = Table(device_name(device), str(torch.__version__), package_version(), "")
    path = files.path_of(here.device)
    if not files.enabled():
        return Known(kind(device), here, path, "off, by CNNKERNELS_CACHE", 0, {})
    shipped = shipped_table(kind(device))
    choices = {op: dict(chosen) for op, chosen in (shipped.choices if shipped else {}).items()}
    own, note = files.read(path, here)
    for op, chosen in (own.choices if own else {}).items():
        choices.setdefault(op, {}).update(chosen)
    return Known(kind(device), here, path, note, len(shipped or ()), choices)


def kind(device: torch.device) -> str:
    """What a shipped table is named after: ``cpu avx512``, ``NVIDIA H200``."""
    if device.type != "cpu":
        return torch.cuda.get_device_name(device)
    return f"cpu {_ext.module.cpu_isa() if _ext.module is not None else 'without kernels'}"


def device_name(device: torch.device) -> str:
    """What the user's table is named after; of a CPU its model and threads too, on which the fastest backend depends."""
    if device.type != "cpu":
        return kind(device)
    return f"{kind(device)} {_machine.processors()[0]} {torch.get_num_threads()} threads"


@functools.cache
def package_version() -> str:
    """With what the build consists of: kernels that were not there were not measured."""
    from cnnkernels import __version__

    cuda = _ext.module.build_info()["cuda"] if _ext.module is not None else None
    return f"{__version__} with CUDA {cuda}" if cuda else f"{__version__} without CUDA"


def shipped_tables() -> list[pathlib.Path]:
    return sorted(pathlib.Path(__file__).parent.glob("*.json"))


def shipped_table(device_kind: str) -> Table | None:
    """Measured with another version of PyTorch perhaps, but with this package."""
    for path in shipped_tables():
        try:
            table = tables.parse(path.read_bytes())
        except (Damaged, OSError) as e:
            warnings.warn(f"cnnkernels ignores its own table {path.name}: {e}", RuntimeWarning, stacklevel=2)
            continue
        if table.device == device_kind:
            return table
    return None
