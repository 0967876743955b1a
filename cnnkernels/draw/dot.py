"""Pictures by Graphviz: a network as a row of stages, a block as a graph from top to bottom."""

from __future__ import annotations

import html
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

from cnnkernels._files import write_whole
from cnnkernels.draw.flow import Flow, Node
from cnnkernels.draw.layers import TIMES, Label
from cnnkernels.draw.structure import Block, Stage

COLOURS = {
    "convolution": "#bcd4ee",
    "pointwise": "#cfe8dc",
    "depthwise": "#f9d5a7",
    "pool": "#e3e3e3",
    "linear": "#e6c9e0",
    "gate": "#f6e58d",
    "shuffle": "#f5b7b1",
    "sum": "#ffffff",
    "join": "#ffffff",
    "other": "#f2f2f2",
    "end": "#ffffff",
}
"""Of a layer, by kind; ``layers.label`` says which kind a layer is."""

_FONT = "Helvetica,Arial,sans-serif"
FORMATS = ("svg", "png", "pdf", "dot")


def _graphviz() -> Any:
    try:
        import graphviz
    except ImportError:
        raise ImportError("drawing needs the package graphviz: pip install graphviz") from None
    return graphviz


def _cell(text: str, **attributes: Any) -> str:
    given = "".join(f' {k.upper()}="{v}"' for k, v in attributes.items())
    return f"<TD{given}>{text}</TD>"


def _layer_rows(layers: Sequence[tuple[list[Label], int]]) -> list[str]:
    rows = []
    for group, times in layers:
        for i, layer in enumerate(group):
            cells = _cell(html.escape(layer.text), bgcolor=COLOURS[layer.kind], align="LEFT")
            if times > 1 and i == 0:
                cells += _cell(f"{TIMES}{times}", rowspan=len(group), border=0)
            elif times == 1:
                cells = cells.replace("<TD", '<TD COLSPAN="2"', 1)
            rows.append(f"<TR>{cells}</TR>")
    return rows


def _channels(block: Block) -> str:
    return "+".join(map(str, block.channels))


def _block_table(block: Block, times: int, size: tuple[int, int]) -> str:
    count = f" <B>{TIMES}{times}</B>" if times > 1 else ""
    title = f"<B>{html.escape(block.title)}</B>{count}"
    foot = ", ".join(block.after)
    rows = [f"<TR>{_cell(title, colspan=2, border=0, align='LEFT')}</TR>", *_layer_rows(block.folded())]
    end = f'<FONT COLOR="#555555">{html.escape(foot)}</FONT>' if foot else ""
    arrow = f"\N{RIGHTWARDS ARROW} {_channels(block)}"
    arrow += "" if block.size == size else f", {block.size[0]}{TIMES}{block.size[1]}"
    rows.append(f"<TR>{_cell(end, border=0, align='LEFT')}{_cell(arrow, border=0, align='RIGHT')}</TR>")
    return f'<TABLE BORDER="1" CELLBORDER="0" CELLSPACING="1" CELLPADDING="2" COLOR="#888888">{"".join(rows)}</TABLE>'


def _stage_table(stage: Stage) -> str:
    head = f"<B>{stage.size[0]}{TIMES}{stage.size[1]}</B>"
    rows = [f"<TR>{_cell(head, border=0)}</TR>"]
    rows += [f"<TR>{_cell(_block_table(block, times, stage.size), border=0)}</TR>" for block, times in stage.blocks]
    return f'<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="2" CELLPADDING="1">{"".join(rows)}</TABLE>>'


def network_graph(name: str, stages: Sequence[Stage]) -> Any:
    """Stages from left to right, each the column of its blocks."""
    graph = _graphviz().Digraph(name, format="svg")
    graph.attr(rankdir="LR", ranksep="0.25", nodesep="0.1", label=name, labelloc="t", fontname=_FONT, fontsize="16")
    graph.attr("node", shape="plain", fontname=_FONT, fontsize="10")
    graph.attr("edge", arrowsize="0.7", color="#555555")
    for i, stage in enumerate(stages):
        graph.node(str(i), _stage_table(stage))
        if i:
            graph.edge(str(i - 1), str(i))
    return graph


def _node_text(node: Node) -> str:
    text = node.label.text
    if node.label.kind == "end" and len(node.shape) == 3:
        text += f"\n{node.shape[0]} channels, {node.shape[1]}{TIMES}{node.shape[2]}"
    return "\n".join([text, ", ".join(node.after)] if node.after else [text])


def block_graph(name: str, flow: Flow) -> Any:
    """Layers from top to bottom; sums and products are circles."""
    graph = _graphviz().Digraph(name, format="svg")
    graph.attr(rankdir="TB", ranksep="0.3", nodesep="0.3", label=name, labelloc="t", fontname=_FONT, fontsize="14")
    graph.attr(
        "node", shape="box", style="filled,rounded", fontname=_FONT, fontsize="11", color="#888888", height="0.3"
    )
    graph.attr("edge", arrowsize="0.7", color="#555555")
    for i, node in enumerate(flow.nodes):
        look = {"shape": "circle", "width": "0.3", "fixedsize": "true"} if node.label.text in ("+", TIMES) else {}
        if node.label.kind == "end":
            look = {"style": "filled", "shape": "plain"}
        graph.node(str(i), _node_text(node), fillcolor=COLOURS[node.label.kind], **look)
        for source in node.sources:
            graph.edge(str(source), str(i))
    return graph


def write(graph: Any, path: str | os.PathLike[str]) -> pathlib.Path:
    """Writes a graph in the format of the path's suffix: .svg, .png, .pdf, or .dot, the source that Graphviz reads.

    The file appears whole or not at all.  Raises ValueError for another suffix, RuntimeError where the program ``dot``
    is needed and not installed.
    """
    path = pathlib.Path(path)
    form = path.suffix.lstrip(".")
    if form not in FORMATS:
        raise ValueError(f"cannot draw {path.name!r}: the name must end in {', '.join('.' + f for f in FORMATS)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot draw {path}: there is no folder {path.parent}")
    if form == "dot":
        content = graph.source.encode()
    elif shutil.which("dot") is None:
        raise RuntimeError(
            "drawing needs the program dot of Graphviz (Debian: apt install graphviz; conda: graphviz; "
            "macOS: brew install graphviz); a file name ending in .dot gives its input instead"
        )
    else:
        content = graph.pipe(format=form)
    write_whole(path, content)
    return path
