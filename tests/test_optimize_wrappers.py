"""torch.compile, torch.export, data parallelism and sharding of what ``optimize`` returns."""

import copy
import os
import pathlib
import subprocess
import sys

import pytest
import torch
from torch import nn

from cnnkernels.optimize import optimize

from .optimize_oracle import (
    MODES,
    Small,
    exact,
    image,
    needs_torchvision,
    ready,
    relative,
    small,
    torchvision,
)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def graph_of(model, x):
    """Names of the functions that dynamo sees."""
    seen = []

    def backend(graph, inputs):
        seen.extend(str(n.target) for n in graph.graph.nodes if n.op == "call_function")
        return graph

    with torch.no_grad():
        torch.compile(model, backend=backend, fullgraph=True)(x)
    return seen


@pytest.mark.parametrize("mode", MODES)
def test_compiled_with_one_graph(mode):
    model, fast, x = small(mode)
    names = graph_of(copy.deepcopy(fast), x)
    wanted = {"dwconv_bn_act" if mode == "infer" else "dwconv_bn_act_train", "squeeze_excite"}
    assert all(any(f"cnnkernels.{op}" in name for name in names) for op in wanted), names
    torch._dynamo.reset()
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    if mode == "train":
        plain = copy.deepcopy(model)
        a, b = compiled(x), plain(x)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        a.square().sum().backward(), b.square().sum().backward()
        for (name, p), q in zip(fast.named_parameters(), plain.parameters(), strict=True):
            assert relative(p.grad, q.grad) < 1e-2, name
        for (name, p), q in zip(fast.named_buffers(), plain.named_buffers(), strict=True):
            torch.testing.assert_close(p, q[1], rtol=1e-4, atol=1e-4, msg=name)
        fast.eval(), model.eval()
    with torch.no_grad():
        assert relative(compiled(x), exact(model, x)) < 1e-5
        fast.stem[0].weight.mul_(2)
        assert relative(compiled(x), exact(model, x)) < 1e-5
        other = image(size=24, n=3)
        assert relative(compiled(other), exact(model, other)) < 1e-5


def test_compiled_by_inductor():
    model, fast, x = small("infer")
    compiled = torch.compile(fast, fullgraph=True)
    # Processes that compile beside each other start for minutes on a busy machine.
    with torch.no_grad(), torch._inductor.config.patch(compile_threads=1):
        assert relative(compiled(x), exact(model, x)) < 1e-5


def ops_in(program):
    """Ops of this package in a program; what runs without gradients is a graph of its own in it."""
    graphs = [g.graph for g in program.graph_module.modules() if isinstance(g, torch.fx.GraphModule)]
    targets = [str(n.target) for g in graphs for n in g.nodes if str(n.target).startswith("cnnkernels.")]
    return {target.split(".")[1] for target in targets}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_exported(mode, strict):
    model, fast, x = small(mode)
    model.eval(), fast.eval()
    program = torch.export.export(fast, (x,), strict=strict)
    if strict:  # else parameters are no parameters while it is traced, and the modules run
        assert {"dwconv_bn_act", "squeeze_excite"} <= ops_in(program)
    assert set(program.state_dict) == set(model.state_dict())
    assert relative(program.module()(x), exact(model, x)) < 1e-5


def test_exported_for_any_batch():
    model, fast, x = small()
    program = torch.export.export(fast, (x,), dynamic_shapes=(({0: torch.export.Dim.DYNAMIC},),))
    for n in (1, 7):
        assert relative(program.module()(image(n=n)), exact(model, image(n=n))) < 1e-5


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0"])
def test_networks_are_exported(name):
    needs_torchvision()
    model, x = ready(torchvision().models.get_model(name, num_classes=10)), image(size=64, n=1)
    fast, _ = optimize(model, x, tune=False)
    program = torch.export.export(fast, (x,), strict=True)
    assert "dwconv_bn_act" in ops_in(program)
    with torch.no_grad():
        assert relative(program.module()(x), fast(x)) < 1e-4


class Opaque(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.act, self.net = nn.Conv2d(3, 3, 3, 1, 1), nn.BatchNorm2d(3), nn.ReLU(), Small()

    def forward(self, x):
        assert bool(torch.isfinite(x).all())
        return self.net(self.act(self.bn(self.conv(x))))


def test_parts_of_an_untraceable_network_compile():
    model, x = ready(Opaque()), image()
    fast, _ = optimize(model, x, tune=False)
    compiled = torch.compile(fast, backend="aot_eager")
    with torch.no_grad():
        assert relative(compiled(x), exact(model, x)) < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_replicas_of_data_parallel(mode):
    """What nn.DataParallel does for each of its devices, without one: modules whose parameters are replaced."""
    model, fast, x = small(mode)
    replica = fast._replicate_for_data_parallel()
    assert type(replica) is type(fast)
    assert not replica.runs_program()
    replica._modules = {k: copy.deepcopy(m) for k, m in fast._modules.items()}
    with torch.no_grad():
        for p in replica.parameters():
            p.mul_(2)
    model.eval(), fast.eval()
    for m in replica.modules():
        m.training = False
    with torch.no_grad():
        expected = Small.forward(replica, x)
        assert relative(replica(x), expected) < 1e-5
        assert relative(fast(x), exact(model, x)) < 1e-5
    assert relative(expected, fast(x)) > 1e-2


def test_data_parallel_on_a_cpu():
    _, fast, x = small()
    with torch.no_grad():
        assert torch.equal(nn.DataParallel(fast)(x), fast(x))


def test_averaged_model():
    """Its deepcopy, and parameters that are written in place."""
    _, fast, x = small("train")
    average = torch.optim.swa_utils.AveragedModel(fast, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    assert average.module.runs_program()
    with torch.no_grad():
        average.update_parameters(fast)
        fast.stem[0].weight.mul_(3)
        average.eval()(x)
        average.update_parameters(fast)
        assert relative(average(x), Small.forward(average.module, x)) < 1e-5
        assert relative(average(x), fast.eval()(x)) > 1e-2


def test_conversion_to_sync_batch_norm():
    model, fast, x = small("train")
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(fast)
    assert isinstance(converted.stem[1], nn.SyncBatchNorm)
    converted.eval(), model.eval()
    with torch.no_grad():
        assert relative(converted(x), exact(model, x)) < 1e-5


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize("what", ["ddp", "fsdp"])
def test_two_processes(what, tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "tests.optimize_worker"]
    root = pathlib.Path(__file__).resolve().parent.parent
    workers = [
        subprocess.Popen(
            [*command, str(r), str(tmp_path / "store"), what],
            cwd=root,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for r in range(2)
    ]
    try:
        errors = [w.communicate(timeout=240)[1] for w in workers]
    finally:
        for w in workers:
            w.kill()
    assert [w.returncode for w in workers] == [0, 0], "\n".join(errors)[-3000:]
