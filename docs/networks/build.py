"""Draws the pictures of these pages and writes their tables of variants: ``python docs/networks/build.py [FAMILY ...]``.

A page's name is that of the family's file in cnnkernels/models.  NAME.svg shows its first network, NAME-block.svg the first
of its blocks in cnnkernels/draw/gallery.py; the table stands between two comments, further blocks under it.
"""

from __future__ import annotations

import pathlib
import re
import sys

import torch

from cnnkernels.draw import BLOCKS, draw
from cnnkernels.models import create_model, list_models, model_entry
from cnnkernels.models.cost import cost

FOLDER = pathlib.Path(__file__).parent
TABLE = re.compile(r"(<!-- variants -->\n).*?(<!-- end of variants -->)", re.DOTALL)
TYPICAL = {
    "resnet": "resnet50",
    "se_resnet": "seresnet50",
    "vgg": "vgg16",
    "repvgg": "repvgg_a0",
    "shufflenet_v1": "shufflenet_v1_g3",
    "shufflenet_v2": "shufflenet_v2_x1_0",
    "mobilenet_v3": "mobilenet_v3_large",
    "attention_resnet": "cbam_resnet50",
}
"""The network that stands for a family, where it is not the first one in the alphabet."""


def families() -> dict[str, list[str]]:
    """Networks by family, in the order of their names."""
    found: dict[str, list[str]] = {}
    for name in list_models(task="classification"):
        found.setdefault(model_entry(name).family, []).append(name)
    return found


def blocks_of(family: str) -> list[str]:
    return [name for name, example in BLOCKS.items() if model_entry(example.network).family == family]


def variants(family: str, names: list[str]) -> str:
    """The table, and the pictures of all blocks but the first, which the page's own text shows."""
    lines = [
        "| network | parameters | multiply-adds | activations | input | top-1 % |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for name in names:
        entry = model_entry(name)
        with torch.device("meta"):
            c = cost(create_model(name), (1, 3, entry.input_size, entry.input_size))
        top1 = "" if entry.top1 is None else f"{entry.top1:.1f}"
        lines.append(
            f"| `{name}` | {c.parameters:,} | {c.macs / 1e9:.3f} G | {c.activations / 1e6:.1f} M | "
            f"{entry.input_size} | {top1} |"
        )
    lines += ["", "Multiply-adds and activations (numbers that the convolutions write) are those of one image."]
    for block in blocks_of(family)[1:]:
        lines += ["", f"![{BLOCKS[block].title}]({block}.svg)"]
    return "\n".join(lines) + "\n"


def with_table(page: str, family: str) -> str:
    """The page's text with its table written anew."""
    names = families()[family]
    return TABLE.sub(lambda m: m[1] + variants(family, names) + m[2], page)


def index(page: str) -> str:
    """README.md with its list of families written anew."""
    rows = [
        f"| [{title(FOLDER / f'{family}.md')}]({family}.md) | {', '.join(f'`{n}`' for n in names)} |"
        for family, names in families().items()
        if (FOLDER / f"{family}.md").exists()
    ]
    begin, end = "<!-- families -->\n", "<!-- end of families -->"
    rows = ["| family | networks |", "| --- | --- |", *rows]
    head, _, rest = page.partition(begin)
    return head + begin + "\n".join(rows) + "\n" + end + rest.partition(end)[2]


def title(page: pathlib.Path) -> str:
    return page.read_text().split("\n")[0].removeprefix("# ")


def main(wanted: list[str]) -> None:
    for family, names in families().items():
        if wanted and family not in wanted:
            continue
        page = FOLDER / f"{family}.md"
        if not page.exists():
            print(f"{family}: no page")
            continue
        page.write_text(with_table(page.read_text(), family))
        draw(TYPICAL.get(family, names[0]), FOLDER / f"{family}.svg")
        for i, block in enumerate(blocks_of(family)):
            draw(block, FOLDER / (f"{block}.svg" if i else f"{family}-block.svg"))
        print(f"{family}: {len(names)} networks, {len(blocks_of(family))} blocks")

    readme = FOLDER / "README.md"
    readme.write_text(index(readme.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
