"""A network as its papers show it: blocks with what is in them, in stages of one resolution.

Found by running the network once on the meta device (nothing is computed) and watching which layers are called.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.draw.layers import TIMES, Label, fold, is_layer, label, normalisation, words
from cnnkernels.models import Network


@dataclass
class Block:
    """Layers that belong together; ``shape`` is [C, H, W] of what they return, of several maps the finest."""

    title: str
    layers: list[Label] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    """BatchNorm and the activations in it, each once."""
    channels: tuple[int, ...] = ()
    size: tuple[int, int] = (1, 1)

    def folded(self) -> list[tuple[list[Label], int]]:
        return fold(self.layers)


@dataclass
class Stage:
    """Blocks up to the last one with results of this size; each with how often it comes in a row.

    Smaller ones may stand between them, in networks that come back to a size (HRNet).
    """

    size: tuple[int, int]
    blocks: list[tuple[Block, int]]


def _is_container(module: nn.Module) -> bool:
    """Whether the blocks are inside it: a Sequential or the like with any."""
    listed = isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    return listed and not all(is_layer(c) for c in module.children())


def _blocks(module: nn.Module) -> list[nn.Module]:
    found = []
    for child in module.children():
        if _is_container(child):
            found += _blocks(child)
        elif not is_layer(child):
            found.append(child)
    return found


def _shape(result: Any) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Channels and size of what a block returned: a tensor, halves of one, or maps of several sizes."""
    maps = [t for t in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(t, Tensor)]
    size = (maps[0].shape[2], maps[0].shape[3]) if maps[0].dim() == 4 else (1, 1)
    if all(t.shape[2:] == maps[0].shape[2:] for t in maps):
        return (sum(t.shape[1] for t in maps),), size
    return tuple(t.shape[1] for t in maps), size


class _Watcher:
    """Collects blocks while the network runs; layers outside any block make one of their own."""

    def __init__(self, model: Network) -> None:
        self.model = model
        self.found: list[Block] = []
        self.open: Block | None = None
        self.loose: Block | None = None
        self.inside_layer = 0
        self.handles: list[Any] = []
        blocks = {id(m): m for m in _blocks(model)}
        for module in model.modules():
            if id(module) in blocks:
                self.handles.append(module.register_forward_pre_hook(self._enter))
                self.handles.append(module.register_forward_hook(self._leave))
            elif is_layer(module):
                self.handles.append(module.register_forward_pre_hook(self._enter_layer))
                self.handles.append(module.register_forward_hook(self._leave_layer))

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        if self.open is None:
            name = type(module).__name__
            plain = isinstance(module, nn.Sequential) or name.endswith(("Conv2d", "ConvBNAct"))
            self.open, self.loose = Block("Convolution" if plain else words(name)), None
            self.found.append(self.open)

    def _leave(self, module: nn.Module, inputs: Any, result: Any) -> None:
        if self.open is not None:
            self.open.channels, self.open.size = _shape(result)
            self.open = None

    def _enter_layer(self, module: nn.Module, inputs: Any) -> None:
        self.inside_layer += 1

    def _leave_layer(self, module: nn.Module, inputs: Any, result: Any) -> None:
        self.inside_layer -= 1
        if self.inside_layer:
            return
        text, note = label(module), normalisation(module)
        if text is None and note is None:
            return
        block = self.open or self.loose
        if block is None or (self.open is None and text is not None and self._size_changes(block, result)):
            block = self.loose = Block("")
            self.found.append(block)
        if text is not None:
            block.layers.append(text)
        if note is not None and note not in block.after:
            block.after.append(note)
        if self.open is None:
            block.channels, block.size = _shape(result)

    @staticmethod
    def _size_changes(block: Block, result: Any) -> bool:
        return bool(block.layers) and _shape(result)[1] != block.size


def _title(block: Block) -> str:
    kinds = {layer.kind for layer in block.layers}
    return "Pooling" if kinds == {"pool"} else "Classifier" if "linear" in kinds else "Convolution"


def structure(model: Network, size: int, in_chans: int = 3) -> list[Stage]:
    """The stages of a network on the meta device for images of size x size."""
    watcher = _Watcher(model)
    backend, model.backend = model.backend, "reference"
    try:
        with torch.no_grad():
            x = torch.zeros(1, in_chans, size, size, device="meta")
            watcher.found.append(Block("Image", channels=(in_chans,), size=(size, size)))
            features = model.eval().forward_features(x)
            watcher.open = watcher.loose = None
            n = len(watcher.found)
            # The classifier and its pooling are one block, even where they are modules of several kinds.
            watcher.open = head = Block("Classifier")
            model.forward_head(features)
            watcher.found[n:] = [head]
    finally:
        watcher.close()
        model.backend = backend
    head.channels, head.size = (model.num_classes or model.num_features,), (1, 1)
    for block in watcher.found:
        block.title = block.title or _title(block)
    stages: list[Stage] = []
    folded = fold(watcher.found, longest=1)
    for i, (group, times) in enumerate(folded):
        largest = max(later[0].size for later, _ in folded[i:])
        if not stages or stages[-1].size != largest:
            stages.append(Stage(largest, []))
        stages[-1].blocks.append((group[0], times))
    return stages


def as_text(stages: list[Stage]) -> str:
    """One line per block, for a terminal."""
    lines = []
    for stage in stages:
        lines.append(f"{stage.size[0]}{TIMES}{stage.size[1]}")
        for block, times in stage.blocks:
            inside = ", ".join(
                ", ".join(f"[{layer.text}]" for layer in group) + (f" {TIMES}{n}" if n > 1 else "")
                for group, n in block.folded()
            )
            count = f" {TIMES}{times}" if times > 1 else ""
            out = "+".join(map(str, block.channels))
            lines.append(f"  {block.title}{count}: {inside} -> {out}")
    return "\n".join(lines)
