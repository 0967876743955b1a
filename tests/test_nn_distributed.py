"""Two processes with gloo: DistributedDataParallel around fused modules gives the gradient of the whole batch."""

import os
import subprocess
import sys

import pytest
import torch

WORKER = """
import os, sys, torch
import torch.distributed as dist
from torch import nn
from cnnkernels.nn import DWConvBNAct, InvertedResidual

rank, store = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
torch.manual_seed(0)
model = nn.Sequential(DWConvBNAct(6), InvertedResidual(6, 6, 1, 2), nn.Flatten(), nn.Linear(6 * 25, 3))
x = torch.randn(8, 6, 5, 5)

def expected():
    grads, buffers = 0, []
    for half in x.chunk(2):
        import copy
        twin = copy.deepcopy(model)
        twin(half).square().mean().backward()
        grads = grads + torch.cat([p.grad.flatten() for p in twin.parameters()]) / 2
        buffers.append([b.clone() for b in twin.buffers()])
    return grads, buffers[rank]

grads, buffers = expected()
parallel = nn.parallel.DistributedDataParallel(model)
parallel(x.chunk(2)[rank]).square().mean().backward()
got = torch.cat([p.grad.flatten() for p in model.parameters()])
torch.testing.assert_close(got, grads, rtol=1e-4, atol=1e-5)
for a, b in zip(model.buffers(), buffers, strict=True):
    torch.testing.assert_close(a, b)
dist.destroy_process_group()
os._exit(0)  # gloo's threads now and then abort the interpreter's shutdown ("terminate called ..."), with torch's modules too
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes(tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen(
            [*command, str(r), str(tmp_path / "store")], stderr=subprocess.PIPE, text=True, env=environment
        )
        for r in range(2)
    ]
    try:
        errors = [w.communicate(timeout=240)[1] for w in workers]
    finally:
        for w in workers:
            w.kill()
    assert [w.returncode for w in workers] == [0, 0], "\n".join(errors)[-3000:]
