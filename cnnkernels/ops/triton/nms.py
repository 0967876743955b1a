"""Triton kernels of the non-maximum suppression: mask rows by band, then a scan.  Sorting and compaction are torch's.

Positions are in the order (segment, falling score); tiles are 64 positions, words one bit per box of a tile.  The plan is
that of csrc/cuda/nms.cuh; here one program scans one image.  Multiplications are not fused with additions
(enable_fp_fusion=False) and divisions round to nearest, so that decisions equal the other backends'.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cnnkernels import _boxes
from cnnkernels.ops.triton.box_overlap import overlap

TILE = 64
MASK_BYTES = 32 << 20  # of mask rows held at a time


@triton.jit
def nms_mask_kernel(
    boxes_ptr, angles_ptr, ends_ptr, beta_ptr, mask_ptr, n, words, first, tiles, threshold,
    KIND: tl.constexpr, POWER: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    # one program: 64 rows against 64 columns, 64 words of 8 bytes written
    image = tl.program_id(0).to(tl.int64) // tiles
    row_tile = first + tl.program_id(0).to(tl.int64) % tiles
    tile = first + tl.program_id(1).to(tl.int64)
    base = image * n
    last = tl.minimum((row_tile + 1) * TILE, n) - 1
    if (tile >= row_tile) & (tile * TILE < tl.load(ends_ptr + base + last)):
        k = tl.arange(0, TILE)
        i = row_tile * TILE + k
        j = tile * TILE + k
        a = boxes_ptr + (base + i) * 4
        b = boxes_ptr + (base + j) * 4
        ax1 = tl.load(a, mask=i < n, other=0.0)[:, None]
        ay1 = tl.load(a + 1, mask=i < n, other=0.0)[:, None]
        ax2 = tl.load(a + 2, mask=i < n, other=0.0)[:, None]
        ay2 = tl.load(a + 3, mask=i < n, other=0.0)[:, None]
        bx1 = tl.load(b, mask=j < n, other=0.0)[None, :]
        by1 = tl.load(b + 1, mask=j < n, other=0.0)[None, :]
        bx2 = tl.load(b + 2, mask=j < n, other=0.0)[None, :]
        by2 = tl.load(b + 3, mask=j < n, other=0.0)[None, :]
        at = tl.load(angles_ptr + base + i, mask=i < n, other=0.0)[:, None]
        bt = tl.load(angles_ptr + base + j, mask=j < n, other=0.0)[None, :]
        end = tl.load(ends_ptr + base + i, mask=i < n, other=0)[:, None]
        beta = tl.load(beta_ptr)
        over = overlap(ax1, ay1, ax2, ay2, at, bx1, by1, bx2, by2, bt, beta, KIND, POWER) > threshold
        removes = over & (j[None, :] > i[:, None]) & (j[None, :] < end)
        word = tl.sum(removes.to(tl.int64) << k.to(tl.int64)[None, :], axis=1)
        row = (image * tiles + row_tile - first) * TILE + k
        tl.store(mask_ptr + row * words + tile, word, mask=i < n)


@triton.jit
def nms_scan_kernel(
    ends_ptr, removed_ptr, kept_ptr, mask_ptr, n, words, first, tiles, TILE: tl.constexpr, BLOCK: tl.constexpr
):
    # one program: one image's band.  A tile is decided box by box in a register, then its kept rows are or-ed, BLOCK
    # words at a time, into what is removed from later tiles.
    image = tl.program_id(0).to(tl.int64)
    for step in range(tiles):
        tile = first + step
        last = tl.minimum((tile + 1) * TILE, n) - 1
        end = tl.load(ends_ptr + image * n + last).to(tl.int64)
        rows = mask_ptr + (image * tiles + step).to(tl.int64) * TILE * words
        inside = ~tl.load(removed_ptr + image * words + tile)
        for i in range(TILE):
            row = tl.load(rows + i * words + tile, mask=tile * TILE + i < n, other=0)
            inside = inside & ~tl.where(((inside >> i) & 1) == 1, row, row * 0)
        tl.store(kept_ptr + image * words + tile, inside)
        later = (end - 1) // TILE
        for start in range((words + BLOCK - 1) // BLOCK):
            word = start * BLOCK + tl.arange(0, BLOCK)
            here = (word > tile) & (word <= later)
            bits = tl.load(removed_ptr + image * words + word, mask=here, other=0)
            for i in range(TILE):
                bits = bits | tl.load(rows + i * words + word, mask=here & (((inside >> i) & 1) == 1), other=0)
            tl.store(removed_ptr + image * words + word, bits, mask=here)
        tl.debug_barrier()  # the next tile reads what other threads stored


def _bits(flags: Tensor, words: int) -> Tensor:
    """[B, n] bool -> [B, words] int64, bit i of word w for element 64 w + i."""
    flags = torch.nn.functional.pad(flags, (0, words * TILE - flags.shape[1]), value=True)
    shifts = torch.arange(TILE, device=flags.device)
    return (flags.view(-1, words, TILE).long() << shifts).sum(-1)


def padded(
    boxes: Tensor, scores: Tensor, segments: Tensor | None, threshold: float, kind: int, beta: float, max_out: int
) -> tuple[Tensor, Tensor]:
    images, n = scores.shape
    device = boxes.device
    if not images or not n:
        empty = torch.full((images, max_out), -1, dtype=torch.int64, device=device)
        return empty, torch.zeros(images, dtype=torch.int64, device=device)
    boxes = boxes.float()
    out = ~boxes.isfinite().all(-1) | scores.isnan()
    by_score = scores.float().masked_fill(out, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
    order = by_score
    if segments is not None:
        ids, by_segment = segments.gather(1, by_score).sort(dim=-1, stable=True)
        order = by_score.gather(1, by_segment)
        ends = torch.searchsorted(ids, ids, right=True).int()
    else:
        ends = torch.full((images, n), n, dtype=torch.int32, device=device)
    placed = boxes.gather(1, order[..., None].expand(-1, -1, 4)).contiguous()
    angles = _boxes.angle(placed).contiguous()
    words = triton.cdiv(n, TILE)
    removed = _bits(out.gather(1, order), words)
    kept = torch.zeros_like(removed)
    band = min(max(MASK_BYTES // (images * TILE * words * 8), 1), words)
    mask = torch.empty((images, TILE * band, words), dtype=torch.int64, device=device)
    exponent = torch.full((1,), beta, dtype=torch.float64, device=device)  # a scalar argument would become float32
    for first in range(0, words, band):
        tiles = min(band, words - first)
        nms_mask_kernel[(images * tiles, words - first)](
            placed, angles, ends, exponent, mask, n, words, first, tiles, threshold,
            KIND=kind, POWER=beta != 1.0, TILE=TILE, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
        nms_scan_kernel[(images,)](ends, removed, kept, mask, n, words, first, tiles, TILE=TILE, BLOCK=256, num_warps=8)
    flags = ((kept[..., None] >> torch.arange(TILE, device=device)) & 1).view(images, -1)[:, :n]
    if segments is not None:
        flags = torch.zeros_like(flags).scatter_(1, by_segment, flags)
    place = flags.cumsum(1) - 1
    place = torch.where((flags == 1) & (place < max_out), place, max_out)
    indices = torch.full((images, max_out + 1), -1, dtype=torch.int64, device=device)
    indices.scatter_(1, place, by_score)
    return indices[:, :max_out].contiguous(), flags.sum(1).clamp(max=max_out)
