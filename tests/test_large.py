"""More than 2^31 elements: every index computation that is 32 bits wide anywhere shows here.

fp16, so that input and output fit into 9 GB; only the far end of the output is compared, with the op on a small copy.
"""

from __future__ import annotations

import pytest
import torch

import cnnkernels
from cnnkernels import ops

SHAPE = (3, 8, 9500, 9500)  # 2.17e9 elements, the last image beyond 2^31
CROP = 24


def available_gib() -> float:
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("MemAvailable")) / 2**20


needs_memory = pytest.mark.skipif(available_gib() < 14, reason="needs 14 GiB of free memory")


@pytest.fixture(params=["nchw", "channels_last"])
def big(request):
    x = torch.zeros(SHAPE, dtype=torch.float16)
    if request.param == "channels_last":
        x = x.view(SHAPE[0], SHAPE[2], SHAPE[3], SHAPE[1]).permute(0, 3, 1, 2)
    g = torch.Generator().manual_seed(0)
    x[-1, :, -CROP:, -CROP:] = torch.randn(SHAPE[1], CROP, CROP, generator=g).half()
    return x


def far_end(y: torch.Tensor) -> torch.Tensor:
    return y[-1:, :, -CROP // 2 :, -CROP // 2 :]


@needs_memory
def test_forward(big):
    weight = torch.linspace(-1, 1, 72).view(8, 1, 3, 3).half()
    scale, shift = torch.linspace(0.5, 1.5, 8), torch.linspace(-1, 1, 8)
    small = big[-1:, :, -CROP:, -CROP:]
    calls = {
        "activation": lambda x: ops.mish(x),
        "bn_act": lambda x: ops.bn_act(x, scale, shift, act="relu6"),
        "dwconv_bn_act": lambda x: ops.dwconv_bn_act(x, weight, scale, shift, act="relu6"),
        "channel_shuffle": lambda x: ops.channel_shuffle(x, 2),
    }
    for name, call in calls.items():
        with cnnkernels.record_backends() as runs:
            got = far_end(call(big))
        assert {r.backend for r in runs} == {"cpu"}, name
        assert torch.equal(got, far_end(call(small))), name


@needs_memory
def test_squeeze_excite_scales_the_far_end(big):
    w1, w2 = torch.full((2, 8), 0.1).half(), torch.full((8, 2), 0.1).half()
    got = far_end(ops.squeeze_excite(big, w1, None, w2, None))
    gate = torch.sigmoid(torch.tensor(0.0))  # the mean over 9e7 positions, nearly all zero, rounds to nothing
    torch.testing.assert_close(got.float(), far_end(big).float() * gate, rtol=2e-3, atol=1e-3)
