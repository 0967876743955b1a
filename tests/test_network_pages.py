"""The pages of docs/networks: one per family, with the table that the code gives and its pictures."""

import importlib.util

import pytest

from cnnkernels.draw import BLOCKS

from .build_tree import ROOT

FOLDER = ROOT / "docs" / "networks"


def load():
    spec = importlib.util.spec_from_file_location("network_pages", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load()


@pytest.mark.parametrize("family", build.families())
def test_page(family):
    """Stale? python docs/networks/build.py"""
    page = (FOLDER / f"{family}.md").read_text()
    assert build.with_table(page, family) == page
    assert f"({family}.svg)" in page
    assert "arXiv:" in page
    for i, block in enumerate(build.blocks_of(family)):
        name = block if i else f"{family}-block"
        assert f"({name}.svg)" in page
        assert (FOLDER / f"{name}.svg").exists()


def test_index():
    page = (FOLDER / "README.md").read_text()
    assert build.index(page) == page


def test_every_picture_is_shown():
    pages = "".join(p.read_text() for p in FOLDER.glob("*.md"))
    for picture in FOLDER.glob("*.svg"):
        assert f"({picture.name})" in pages, picture.name
    assert len(BLOCKS) > 20
