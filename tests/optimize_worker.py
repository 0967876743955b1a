"""One of two processes (rank, file for the rendezvous, what to do): an optimised network under a wrapper of torch.distributed."""

import copy
import os
import sys

import torch
import torch.distributed as dist
from torch import nn

from cnnkernels.optimize import optimize

from .optimize_oracle import Small, image, ready, swapped


def ddp(rank):
    """The gradient of the whole batch, and statistics of this half, as without optimize."""
    torch.manual_seed(0)
    model = ready(Small(), "train")
    x = image(n=4).chunk(2)[rank]
    fast, report = optimize(model, x, "train", tune=False)
    assert swapped(report)["conv_sum"] == 1
    results = []
    for m in (fast, copy.deepcopy(model)):
        parallel = nn.parallel.DistributedDataParallel(m)
        parallel(x).square().mean().backward()
        results.append([*(p.grad for p in m.parameters()), *m.buffers()])
        assert m is not fast or fast.runs_program()
        m.zero_grad()
    # The twin was copied before the step, and the original's statistics are fast's.
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def fsdp(rank):
    """Sharded parameters are DTensors between the calls: the modules run wherever a kernel cannot read them."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = ready(Small(), "train")
    x = image(n=4).chunk(2)[rank]
    fast, _ = optimize(model, x, "train", tune=False)
    plain = copy.deepcopy(model)
    for m in (fast, plain):
        m.stem.requires_grad_(True)
        fully_shard(m.stem)
        fully_shard(m)
    curves = []
    for m in (fast, plain):
        optimizer = torch.optim.SGD(m.parameters(), 0.05)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = m(x).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[1][-1] < curves[1][0]
    torch.testing.assert_close(torch.tensor(curves[0]), torch.tensor(curves[1]), rtol=1e-4, atol=1e-5)
    fast.eval(), plain.eval()
    with torch.no_grad():
        torch.testing.assert_close(fast(x), plain(x), rtol=1e-3, atol=1e-4)


if __name__ == "__main__":
    rank, store, what = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    {"ddp": ddp, "fsdp": fsdp}[what](rank)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads now and then abort the interpreter's shutdown, with torch's modules too
