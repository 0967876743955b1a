"""Pictures of networks and of their blocks: ``draw("mobilenet_v2", "net.svg")``, ``draw("shuffle_unit", "unit.svg")``."""

from __future__ import annotations

import difflib
import os
import pathlib
from typing import Any

import torch
from torch import nn

from cnnkernels.draw import dot
from cnnkernels.draw.flow import Flow, flow
from cnnkernels.draw.gallery import BLOCKS
from cnnkernels.draw.structure import Block, Stage, as_text, structure
from cnnkernels.models import create_model, list_models, model_entry

__all__ = ["BLOCKS", "Block", "Flow", "Stage", "as_text", "block_flow", "draw", "network_structure"]


def _on_meta(name: str, **config: Any) -> Any:
    with torch.device("meta"):
        return create_model(name, **config)


def network_structure(name: str, size: int | None = None, **config: Any) -> list[Stage]:
    """The stages of a network, for images of size x size (default: its published input size)."""
    return structure(_on_meta(name, **config), size or model_entry(name).input_size)


def block_flow(name: str, path: str, size: int | None = None, **config: Any) -> Flow:
    """The graph of the module called ``path`` in a network, with the input that it gets there, halves put together.

    Raises ValueError where there is no such module, or the network does not call it.
    """
    model = _on_meta(name, **config).eval()
    try:
        block: nn.Module = model.get_submodule(path)
    except AttributeError:
        some = ", ".join(n for n, m in model.named_modules() if n and any(True for _ in m.children()))
        raise ValueError(f"{name} has no module {path!r}; it has: {some}") from None
    seen: list[Any] = []
    handle = block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs) if not seen else None)
    size = size or model_entry(name).input_size
    model.backend = "reference"
    with torch.no_grad():
        model(torch.zeros(1, 3, size, size, device="meta"))
    handle.remove()
    if not seen:
        raise ValueError(f"{name} does not call its module {path!r} in evaluation")
    return flow(block, *(torch.cat(x, dim=1) if isinstance(x, tuple) else x for x in seen[0]))


def draw(name: str, path: str | os.PathLike[str], block: str | None = None, size: int | None = None) -> pathlib.Path:
    """Draws a network, a block of it (``block``: a module's name in it), or a block of ``BLOCKS``.

    path: ends in .svg, .png, .pdf or .dot.  size: of the images.
    Raises ValueError for an unknown name or suffix, RuntimeError where Graphviz's program ``dot`` is not installed,
    ImportError where its Python package is not.
    """
    if name not in BLOCKS and name not in list_models(task="classification"):
        near = difflib.get_close_matches(name, [*BLOCKS, *list_models(task="classification")], 5, 0.5)
        similar = f"; similar: {', '.join(near)}" if near else ""
        raise ValueError(f"draw: no network or block called {name!r}{similar}")
    if name in BLOCKS:
        if block is not None:
            raise ValueError(f"draw: {name} is a block itself; block= is for a network")
        entry = BLOCKS[name]
        graph = dot.block_graph(entry.title, block_flow(entry.network, entry.path, size, **entry.config))
    elif block is not None:
        graph = dot.block_graph(f"{name}: {block}", block_flow(name, block, size))
    else:
        graph = dot.network_graph(name, network_structure(name, size))
    return dot.write(graph, path)
