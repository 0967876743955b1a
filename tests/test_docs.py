"""The pages (README.md, CONTRIBUTING.md, docs): examples run, links and files exist, numbers are the published ones.

Every ```python block is a program of its own and runs on the CPU.  One that cannot says so in its first line, "# needs a GPU"
or "# needs ..." anything else (a file, the network), and is skipped with that reason.
"""

from __future__ import annotations

import inspect
import json
import pathlib
import re

import pytest
import torch

from benchmarks import publish
from cnnkernels import nn, ops

from .build_tree import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPS_PAGE = ROOT / "docs" / "ops.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FOLDERS = ("benchmarks", "cnnkernels", "csrc", "docs", "tests")


def blocks() -> list[pytest.ParameterSet]:
    """(page, line of the block's first statement, source) of every block."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            line = text[: match.start(1)].count("\n") + 1
            found.append(pytest.param(page, line, match[1], id=f"{page.name}:{line}"))
    return found


@pytest.mark.parametrize(("page", "line", "source"), blocks())
def test_example(page, line, source):
    needs = re.match(r"# (needs .*)", source)
    if needs and not (needs[1].startswith("needs a GPU") and torch.cuda.is_available()):
        pytest.skip(f"{page.name}:{line} {needs[1]}")
    torch.manual_seed(0)
    exec(compile("\n" * (line - 1) + source, str(page), "exec"), {"__name__": "__main__"})


def test_every_public_module_is_on_its_page():
    page = (ROOT / "docs" / "modules.md").read_text()
    assert [name for name in nn.__all__ if f"`{name}`" not in page] == []


def sections() -> dict[str, str]:
    """docs/ops.md by heading."""
    parts = re.split(r"^## (.*)$", OPS_PAGE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_public_op_has_a_section_with_an_example_that_runs():
    named = {name: title for title in sections() for name in re.findall(r"\w+", title) if name in ops.__all__}
    assert set(named) == set(ops.__all__)
    for name, title in named.items():
        examples = [source for source in BLOCK.findall(sections()[title]) if not source.startswith("# needs")]
        assert any(f"ops.{name}(" in source for source in examples), name


def signature(name: str) -> str:
    """``name(x, *, act="relu")``: as a page writes it."""
    of = inspect.signature(getattr(ops, name))
    bare = of.replace(
        parameters=[p.replace(annotation=p.empty) for p in of.parameters.values()], return_annotation=of.empty
    )
    return f"{name}{bare}".replace("'", '"').replace("1e-05", "1e-5")


@pytest.mark.parametrize("name", ops.__all__)
def test_signature(name):
    assert signature(name) in " ".join(OPS_PAGE.read_text().split())


def anchors(page: pathlib.Path) -> set[str]:
    """What GitHub makes of the page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_files_exist(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target
    for name in re.findall(r"`([\w./]+)`", text):
        if name.split("/")[0] in FOLDERS and "/" in name:
            assert (ROOT / name).exists(), name


def published() -> dict:
    """The committed run that README.md shows."""
    readme = (ROOT / "README.md").read_text()
    for file in (ROOT / "benchmarks" / "results").glob("*.json"):
        summary = json.loads(file.read_text())
        if publish.table(summary) in readme:
            return summary
    raise AssertionError("README.md's benchmark table is that of no file in benchmarks/results")


def test_benchmark_tables_are_those_of_a_committed_run():
    page = OPS_PAGE.read_text()
    assert page.count("<!-- benchmark of: ") == len(sections()) - 1  # the first section is about all ops
    assert page == publish.fill(page, published()), "python -m benchmarks.publish writes other numbers"
