"""Structure diagrams: what is found in a network, how it is folded, and files that appear whole or not at all."""

import shutil
import xml.etree.ElementTree

import pytest

from cnnkernels import cli
from cnnkernels.draw import BLOCKS, block_flow, dot, draw, network_structure
from cnnkernels.draw.layers import fold, words
from cnnkernels.models import list_models

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="the program dot of Graphviz is not installed")


def blocks(name, **kw):
    """(size, title, times, layers, channels) of every block."""
    return [
        (stage.size[0], block.title, times, [layer.text for layer in block.layers], block.channels)
        for stage in network_structure(name, **kw)
        for block, times in stage.blocks
    ]


def test_mobilenet_v2():
    found = blocks("mobilenet_v2")
    assert found[0] == (224, "Image", 1, [], (3,))
    assert found[1] == (112, "Convolution", 1, ["3×3 /2, 32"], (32,))
    assert found[3] == (56, "Inverted residual", 1, ["1×1, 96", "3×3 /2 dw, 96", "1×1, 24"], (24,))
    assert found[6] == (28, "Inverted residual", 2, ["1×1, 192", "3×3 dw, 192", "1×1, 32"], (32,))
    assert found[-1] == (1, "Classifier", 1, ["linear, 1000"], (1000,))
    assert sum(times for _, title, times, *_ in found if title == "Inverted residual") == 17


def test_resnet50():
    found = blocks("resnet50")
    assert [(title, times) for _, title, times, *_ in found] == [
        ("Image", 1),
        ("Convolution", 1),
        ("Pooling", 1),
        *[("Bottleneck", n) for blocks in (3, 4, 6, 3) for n in (1, blocks - 1)],
        ("Classifier", 1),
    ]
    assert {size for size, *_ in blocks("resnet50", size=160)} == {160, 80, 40, 20, 10, 5, 1}


@pytest.mark.parametrize("name", list_models(task="classification"))
def test_every_network(name):
    """Every convolution and linear layer is in the picture, as often as it is in the network."""
    import torch
    from torch import nn

    from cnnkernels.models import create_model, model_entry

    with torch.device("meta"):
        model = create_model(name)
    inside_gates = {"avgpool", "fc1", "fc2", "conv_reduce", "conv_expand"}
    called = []

    def note(module, _):
        called.append(module)

    for path, module in model.named_modules():
        parent = model.get_submodule(path.rpartition(".")[0]) if path else None
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not (
            type(parent).__name__ == "SqueezeExcite" and path.rpartition(".")[2] in inside_gates
        ):
            module.register_forward_pre_hook(note)
    model.backend = "reference"
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, model_entry(name).input_size, model_entry(name).input_size, device="meta"))
    shown = [
        layer
        for stage in network_structure(name)
        for block, times in stage.blocks
        for layer in block.layers * times
        if layer.kind in ("convolution", "pointwise", "depthwise", "linear")
    ]
    assert len(shown) == len(called)
    graph = dot.network_graph(name, network_structure(name))
    assert graph.source.count('BORDER="1"') == sum(len(stage.blocks) for stage in network_structure(name))


def edges(flow):
    return {(flow.nodes[s].label.text, node.label.text) for node in flow.nodes for s in node.sources}


def test_inverted_residual():
    flow = block_flow("mobilenet_v2", "features.3")
    assert [(n.label.text, n.after) for n in flow.nodes] == [
        ("input", []),
        ("1×1, 144", ["BN", "ReLU6"]),
        ("3×3 dw, 144", ["BN", "ReLU6"]),
        ("1×1, 24", ["BN"]),
        ("+", []),
        ("output", []),
    ]
    assert {("input", "+"), ("1×1, 24", "+"), ("+", "output")} <= edges(flow)
    assert flow.nodes[0].shape == flow.nodes[-1].shape == (24, 56, 56)


def test_bottleneck_with_projection():
    flow = block_flow("resnet50", "layer2.0")
    assert {("1×1 /2, 512", "+"), ("1×1, 512", "+"), ("+", "ReLU"), ("ReLU", "output")} <= edges(flow)
    assert flow.nodes[-1].shape == (512, 28, 28)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block(name):
    example = BLOCKS[name]
    flow = block_flow(example.network, example.path, **example.config)
    assert len(flow.nodes) > 2
    assert all(node.sources for node in flow.nodes[1:])
    assert all(s < i for i, node in enumerate(flow.nodes) for s in node.sources)


def test_fold():
    assert fold(list("aabab")) == [(["a"], 2), (["b"], 1), (["a"], 1), (["b"], 1)]
    assert fold(list("abababc")) == [(["a", "b"], 3), (["c"], 1)]
    assert fold([]) == []


def test_words():
    assert words("InvertedResidual") == "Inverted residual"
    assert words("SEBlock") == "SE block"
    assert words("RepVGGBlock") == "RepVGG block"
    assert words("_DenseLayer") == "Dense layer"


# ---- files -----------------------------------------------------------------------------------------------------------


@needs_dot
def test_svg_and_png(tmp_path):
    svg = draw("mobilenet_v2", tmp_path / "net.svg")
    texts = ["".join(t.itertext()) for t in xml.etree.ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {"mobilenet_v2", "Inverted residual", "3×3 dw, 144", "linear, 1000"} <= set(texts)
    assert draw("bottleneck", tmp_path / "block.png").read_bytes()[:4] == b"\x89PNG"
    assert draw("resnet18", tmp_path / "b.pdf", block="layer1.0").read_bytes()[:4] == b"%PDF"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.pdf", "block.png", "net.svg"]


def test_source_needs_no_program(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "digraph" in draw("mobilenet_v2", tmp_path / "net.dot").read_text()
    (tmp_path / "net.svg").write_text("before")
    with pytest.raises(RuntimeError, match=r"needs the program dot.*apt install graphviz"):
        draw("mobilenet_v2", tmp_path / "net.svg")
    assert (tmp_path / "net.svg").read_text() == "before"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("mobilenet_v", "x.svg"), "no network or block called 'mobilenet_v'; similar: .*mobilenet_v2"),
        (("mobilenet_v2", "x.gif"), r"must end in \.svg, \.png, \.pdf, \.dot"),
        (("mobilenet_v2", "x.svg", "features.99"), "no module 'features.99'; it has: features"),
        (("bottleneck", "x.svg", "layer1"), "is a block itself"),
    ],
)
def test_bad_requests(call, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        draw(call[0], tmp_path / call[1], *call[2:])
    assert not list(tmp_path.iterdir())


def test_command(tmp_path, capsys):
    assert cli.main(["draw", "mobilenet_v2", "-o", str(tmp_path / "net.dot")]) == 0
    assert "wrote" in capsys.readouterr().out
    assert cli.main(["draw", "mobilenet_v2"]) == 0
    assert "Inverted residual ×2: [1×1, 192], [3×3 dw, 192], [1×1, 32] -> 32" in capsys.readouterr().out
    assert cli.main(["draw", "--list"]) == 0
    assert "inverted_residual" in capsys.readouterr().out
    assert cli.main(["draw"]) == 2
    assert cli.main(["draw", "nothing", "-o", str(tmp_path / "x.svg")]) == 1
    assert "no network or block" in capsys.readouterr().err
    assert cli.main(["draw", "mobilenet_v2", "-o", str(tmp_path / "absent" / "x.svg")]) == 1
    assert "no folder" in capsys.readouterr().err
