"""The contract table: ``TABLE[op]`` for every registered op."""

import importlib
import pathlib
import pkgutil

from .table import Bad, Case, OpCases

TABLE: dict[str, OpCases] = {}
for module in pkgutil.iter_modules([str(pathlib.Path(__file__).parent)]):
    if module.name != "table":
        TABLE.update(importlib.import_module(f"{__name__}.{module.name}").TABLE)

CASES: list[Case] = [c for t in TABLE.values() for c in t.cases]
BAD: list[Bad] = [b for t in TABLE.values() for b in t.bad]

# Backends that an op does not have yet; calls fall back to ``reference``, visibly.  tests/test_contract.py keeps it true.
NOT_WRITTEN: set[tuple[str, str]] = {
    (op, backend) for op in ("detection_candidates",) for backend in ("cuda", "triton")
}
