"""Larger regions: squeeze-and-excitation, RepVGG's branches, channel shuffles, inverted residuals, pyramids of pools."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from cnnkernels.nn import ChannelShuffle, ConvBNAct, FusedSequential, RepVGGBlock, ShuffleStage, ShuffleUnit, _unit
from cnnkernels.nn._chain import chain_of
from cnnkernels.nn.activation import activation_name
from cnnkernels.ops.spp import MOST_SIZES
from cnnkernels.optimize import _leaves
from cnnkernels.optimize._leaves import shape
from cnnkernels.optimize._regions import Bottleneck, Excite, PixelMean, Pyramid, Run, Unit
from cnnkernels.optimize._rewriter import Rewriter

# ---- squeeze-and-excitation ----------------------------------------------------------------------------------------------

_RESHAPES = ("view", "reshape", "flatten", "expand", "expand_as", "unsqueeze", "squeeze")


def _through_reshapes(r: Rewriter, node: Any) -> Any:
    """The node whose values these are, in another shape."""
    while isinstance(node, fx.Node):
        reshapes = (
            (node.op == "call_method" and node.target in _RESHAPES)
            or (
                node.op == "call_function"
                and node.target in (torch.flatten, torch.reshape, torch.unsqueeze, torch.squeeze)
            )
            or isinstance(r.module(node), nn.Flatten)
        )
        if not reshapes or not node.args:
            return node
        node = node.args[0]
    return node


def _is_mean_of(r: Rewriter, node: Any, x: fx.Node) -> bool:
    """The mean over H and W of x, in whatever shape."""
    if not isinstance(node, fx.Node) or not node.args or node.args[0] is not x:
        return False
    pool = r.module(node)
    if pool is not None:
        return _unit.untouched(pool, nn.AdaptiveAvgPool2d) and pool.output_size in (1, (1, 1))
    if node.op == "call_function" and node.target is F.adaptive_avg_pool2d:
        return node.args[1] in (1, (1, 1))
    if (node.op == "call_method" and node.target == "mean") or (
        node.op == "call_function" and node.target is torch.mean
    ):
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        return isinstance(dims, (tuple, list)) and sorted(d % 4 for d in dims) == [2, 3]
    return False


def pixel_means(r: Rewriter) -> None:
    """The mean over H and W in front of a classifier, and its reshape."""
    if r.training:
        return
    for node in r.nodes():
        x = node.args[0] if node.args else None
        if not isinstance(x, fx.Node) or len(shape(x) or ()) != 4 or not _is_mean_of(r, node, x):
            continue
        last, user = node, r.only_user(node)
        if user is not None and _through_reshapes(r, user) is node and len(shape(user) or ()) == 2:
            last = user
        keepdim = len(shape(last) or ()) == 4
        r.replace("pixel_mean", PixelMean(keepdim), (x,), last)


def _is_layer(module: Any) -> bool:
    """A layer that sees a vector per image."""
    if _unit.untouched(module, nn.Conv2d):
        return (
            module.kernel_size == (1, 1) and module.stride == (1, 1) and module.groups == 1 and module.padding == (0, 0)
        )
    return _unit.untouched(module, nn.Linear)


def squeeze_excitations(r: Rewriter) -> None:
    """``x * gate(fc2(act(fc1(mean of x))))``."""
    for node in r.nodes():
        factors = _leaves.product(node)
        if factors is None:
            continue
        for x, factor in (factors, factors[::-1]):
            if len(shape(x) or ()) != 4 or shape(x) != shape(node):
                continue
            found = _excite(r, x, factor)
            if found is not None:
                excite, name = found
                r.replace("squeeze_excite", excite, (x,), node, name)
                break


def _excite(r: Rewriter, x: fx.Node, factor: fx.Node) -> tuple[Excite, str] | None:
    gate_node = _through_reshapes(r, factor)
    gate = r.activation_at(gate_node) if isinstance(gate_node, fx.Node) else None
    if gate is None or str(activation_name(gate)) not in ("sigmoid", "hard_sigmoid"):
        return None
    fc2_node = _through_reshapes(r, gate_node.args[0])
    act_node = r.one_input(fc2_node) if _is_layer(r.module(fc2_node)) else None
    act = r.activation_at(act_node) if act_node is not None else None
    if act is None or act_node is None:
        return None
    fc1_node = _through_reshapes(r, act_node.args[0])
    pooled = _through_reshapes(r, r.one_input(fc1_node)) if _is_layer(r.module(fc1_node)) else None
    if not _is_mean_of(r, pooled, x):
        return None
    # Nothing in between is read by anything else, but for sizes.
    chain = (factor, gate_node, fc2_node, act_node, fc1_node, pooled)
    if any(len([u for u in n.users if not _asks_size(u)]) != 1 for n in dict.fromkeys(chain)):
        return None
    return Excite(r.module(fc1_node), act, r.module(fc2_node), gate), str(fc1_node.target)


def _asks_size(node: fx.Node) -> bool:
    return (node.op == "call_method" and node.target in ("size", "dim")) or (
        node.op == "call_function" and node.target is getattr and node.args[1] in ("shape", "ndim")
    )


# ---- RepVGG ----------------------------------------------------------------------------------------------------------------


def _terms(node: fx.Node) -> list[fx.Node] | None:
    """Of a sum of two or three."""
    top = _leaves.addition(node)
    if top is None:
        return None
    for first, second in (top, top[::-1]):
        nested = _leaves.addition(first) if len(first.users) == 1 else None
        if nested is not None:
            return [*nested, second]
    return list(top)


def parallel_branches(r: Rewriter) -> None:
    """``bn(conv3x3(x)) + bn(conv1x1(x)) + bn(x)``: one convolution in evaluation."""
    if r.training:
        return
    for node in reversed(r.nodes()):  # a sum of three before the sum of two in it
        terms = _terms(node) if node in r else None
        units = [r.module(t) for t in terms or ()]
        if not terms or not all(isinstance(u, Unit) and u.act is None and u.added is None for u in units):
            continue
        xs = {t.args[0] for t in terms}
        if len(xs) != 1 or any(len(t.users) != 1 for t in terms) or any(u.bn is None for u in units):
            continue
        by_size = {u.conv.kernel_size if u.conv is not None else None: u for u in units}
        if len(by_size) != len(units) or not {(3, 3), (1, 1)} <= set(by_size):
            continue
        dense, pointwise = (ConvBNAct.from_modules(by_size[k].conv, by_size[k].bn) for k in ((3, 3), (1, 1)))
        identity = by_size[None].bn if None in by_size else None
        last, act = r.activation_after(node)
        block = RepVGGBlock.from_branches(dense, pointwise, identity, act)
        x = terms[0].args[0]
        assert isinstance(x, fx.Node)
        r.replace("merged_branches", block, (x,), last, r.regions[terms[0]].name)


# ---- channel shuffles --------------------------------------------------------------------------------------------------------


def _shuffle_groups(node: fx.Node) -> tuple[fx.Node, int] | None:
    """(x, groups) if the node is x, whose channels were written as [groups, C / groups], transposed and joined again."""
    x_shape = shape(node)
    if x_shape is None or len(x_shape) != 4 or not _is_view(node):
        return None
    turned = node.args[0]
    if isinstance(turned, fx.Node) and turned.op == "call_method" and turned.target == "contiguous":
        turned = turned.args[0]
    if not isinstance(turned, fx.Node) or not _swaps_1_and_2(turned):
        return None
    split = turned.args[0]
    if not isinstance(split, fx.Node) or not _is_view(split) or not isinstance(split.args[0], fx.Node):
        return None
    x, parts = split.args[0], shape(split)
    if parts is None or shape(x) != x_shape or parts[:1] + parts[3:] != x_shape[:1] + x_shape[2:]:
        return None
    return (x, parts[1]) if len(parts) == 5 and shape(turned) == (parts[0], parts[2], parts[1], *parts[3:]) else None


def _is_view(node: fx.Node) -> bool:
    return (node.op == "call_method" and node.target in ("view", "reshape")) or (
        node.op == "call_function" and node.target is torch.reshape
    )


def _swaps_1_and_2(node: fx.Node) -> bool:
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    if name == "transpose":
        return set(node.args[1:]) == {1, 2}
    if name == "permute":
        order = node.args[1] if isinstance(node.args[1], (tuple, list)) else node.args[1:]
        return tuple(order) == (0, 2, 1, 3, 4)
    return False


def channel_shuffles(r: Rewriter) -> None:
    """The view, transpose and reshape of ShuffleNet, as one pass."""
    for node in r.nodes():
        if node.op == "call_module" and _unit.untouched(r.module(node), nn.ChannelShuffle):
            x, groups = r.one_input(node), r.module(node).groups
        else:
            found = _shuffle_groups(node)
            x, groups = found if found is not None else (None, 0)
        if x is not None:
            r.replace("channel_shuffle", ChannelShuffle(groups), (x,), node)


def shuffle_units(r: Rewriter) -> None:
    """ShuffleNetV2's units: a branch (or two), concatenation and shuffle; neighbours are one stage."""
    for node in r.nodes():
        joined = r.one_input(node)
        if not isinstance(r.module(node), ChannelShuffle) or r.module(node).groups != 2 or joined is None:
            continue
        halves = _concatenated(joined)
        if halves is None or len(joined.users) != 1:
            continue
        found = _branches(r, *halves)
        if found is not None:
            x, left, right = found
            units = [ShuffleUnit.from_branches(FusedSequential(*left), FusedSequential(*right))]
            before = r.module(x)
            if isinstance(before, ShuffleStage) and not left and len(x.users) == 1:
                units[:0] = list(before)  # type: ignore[arg-type]
                x = x.args[0]  # type: ignore[assignment]
            r.replace("shuffle_stage", ShuffleStage(*units), (x,), node)


def _concatenated(node: fx.Node) -> tuple[fx.Node, ...] | None:
    if node.op != "call_function" or node.target not in (torch.cat, torch.concat) or not node.args:
        return None
    parts, dim = node.args[0], node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if dim not in (1, -3) or not isinstance(parts, (tuple, list)):
        return None
    nodes = tuple(p for p in parts if isinstance(p, fx.Node))
    return nodes if len(nodes) == len(parts) else None


def _half(node: fx.Node) -> tuple[fx.Node, int] | None:
    """(x, i) if the node is half i of x's channels."""
    if node.op != "call_function" or getattr(node.target, "__name__", "") != "getitem":
        return None
    chunk, index = node.args
    if not isinstance(chunk, fx.Node) or index not in (0, 1):
        return None
    name = chunk.target if chunk.op == "call_method" else getattr(chunk.target, "__name__", "")
    x = chunk.args[0]
    dim = chunk.args[2] if len(chunk.args) > 2 else chunk.kwargs.get("dim", 0)
    if name not in ("chunk", "split") or dim != 1 or not isinstance(x, fx.Node):
        return None
    whole, half = shape(x), shape(node)
    return (x, int(str(index))) if whole and half and 2 * half[1] == whole[1] else None


def _branches(r: Rewriter, *halves: fx.Node) -> tuple[fx.Node, list[nn.Module], list[nn.Module]] | None:
    """x and the layers of both branches."""
    if len(halves) != 2:
        return None
    left, right = halves
    start, layers = _chain_back(r, right)
    if not layers:
        return None
    kept, worked = _half(left), _half(start)
    if kept is not None and worked is not None and (kept[0], kept[1], worked[1]) == (worked[0], 0, 1):
        return kept[0], [], layers
    other_start, others = _chain_back(r, left)
    return (start, others, layers) if others and other_start is start else None


def _chain_back(r: Rewriter, node: fx.Node) -> tuple[fx.Node, list[nn.Module]]:
    """Where the units that end in this node begin, and their layers."""
    layers: list[nn.Module] = []
    while (
        isinstance(unit := r.module(node), Unit)
        and unit.added is None
        and unit.conv is not None
        and len(node.users) == 1
    ):
        layers[:0] = [m for m in (unit.conv, unit.bn, unit.act) if m is not None]
        node = node.args[0]  # type: ignore[assignment]
    return node, layers


# ---- inverted residuals -----------------------------------------------------------------------------------------------------


def inverted_residuals(r: Rewriter) -> None:
    """1x1 expansion (or none), depthwise convolution, squeeze-and-excitation (or none), 1x1 projection, sum (or none)."""
    if r.training:
        return
    for node in r.nodes():
        unit = r.module(node)
        if isinstance(unit, Unit) and unit.added in (None, "shortcut"):
            _inverted_residual(r, node, unit)


def _inverted_residual(r: Rewriter, node: fx.Node, unit: Unit) -> None:
    layers: list[nn.Module] = _layers(unit)
    x: Any = node.args[0]
    if isinstance(r.module(x), Excite) and len(x.users) == 1:
        layers.insert(0, r.module(x))
        x = x.args[0]
    depthwise = r.module(x)
    if not _is_unit(depthwise) or not _unit.is_depthwise(depthwise.conv) or len(x.users) != 1:
        return
    layers[:0] = _layers(depthwise)
    x = x.args[0]
    addend = node.args[1] if unit.added else None
    # With the expansion, if it fits; without it where the sum begins there.
    expansion = r.module(x)
    if x is not addend and _is_unit(expansion) and len(x.users) == 1:
        whole = [*_layers(expansion), *layers]
        if addend in (None, x.args[0]) and chain_of(FusedSequential(*whole)) is not None:
            layers, x = whole, x.args[0]
    if (addend is not None and addend is not x) or (unit.added and unit.act is not None):
        return
    if chain_of(FusedSequential(*layers)) is not None:
        r.replace("inverted_residual", Bottleneck(layers, addend is not None), (x,), node, r.regions[node].name)


def _is_unit(module: Any) -> bool:
    return isinstance(module, Unit) and module.added is None and module.conv is not None


def _layers(unit: Unit) -> list[nn.Module]:
    return [m for m in (unit.conv, unit.bn, unit.act) if m is not None]


# ---- spatial pyramid pooling ---------------------------------------------------------------------------------------------------


def _pool_size(r: Rewriter, node: fx.Node) -> int:
    """Of a square window around each pixel whose maximum the node is; 0 for anything else."""
    pool = r.module(node)
    if not _unit.untouched(pool, nn.MaxPool2d) or pool.return_indices or pool.ceil_mode or r.one_input(node) is None:
        return 0
    k = pool.kernel_size
    sides = [v if isinstance(v, tuple) else (v, v) for v in (k, pool.stride, pool.padding, pool.dilation)]
    (kh, kw), stride, padding, dilation = sides
    square = kh == kw and kh % 2 and (stride, padding, dilation) == ((1, 1), (kh // 2, kh // 2), (1, 1))
    return int(kh) if square else 0


def pyramids(r: Rewriter) -> None:
    """Maxima over growing windows of one map, beside the map: pools of it, or one pool again and again."""
    for node in r.nodes():
        parts = _concatenated(node)
        if parts is None or len(parts) < 2:
            continue
        x, *pools = parts
        sizes = {x: 1}
        for p in pools:
            k, source = _pool_size(r, p), p.args[0] if p.args else None
            if k and source in sizes:
                sizes[p] = sizes[source] + k - 1  # type: ignore[index]
        inner = [n for n in pools if set(n.users) - {node, *pools}]
        if len(sizes) == len(parts) <= MOST_SIZES + 1 and not inner:
            r.replace("spp", Pyramid([sizes[p] for p in pools]), (x,), node)


# ---- one after the other -------------------------------------------------------------------------------------------------------


def _with_plan(module: Any) -> bool:
    return module is not None and hasattr(type(module), "_plan")


def runs(r: Rewriter) -> None:
    """Regions of which each alone reads the one before, as one call."""
    if r.training:
        return
    for row in list(_rows(r)):
        if len(row) > 1:
            first, parts = r.regions[row[0]], tuple(r.regions[n] for n in row)
            r.replace("run", Run([r.module(n) for n in row]), row[0].args, row[-1], first.name, parts)  # type: ignore[arg-type]


def _rows(r: Rewriter) -> Iterator[list[fx.Node]]:
    seen: set[fx.Node] = set()
    for node in r.nodes():
        if node in seen:
            continue
        row: list[fx.Node] = []
        at: fx.Node | None = node
        while at is not None and at in r.regions and _with_plan(r.module(at)) and len(at.args) == 1:
            if row and at.args[0] is not row[-1]:
                break
            row.append(at)
            at = r.only_user(at)
        seen.update(row)
        if row:
            yield row
