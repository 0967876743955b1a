"""Random heads' outputs and targets for the tests of YOLOX's assignment and loss."""

from __future__ import annotations

import torch

STRIDES = (8, 16, 32)


def targets(images: int, size: int, num_classes: int, most: int = 8, dtype: torch.dtype = torch.float64):
    """1 to ``most`` boxes in each image of ``size`` pixels."""
    found = []
    for _ in range(images):
        count = int(torch.randint(1, most + 1, ()))
        corner = torch.rand(count, 2, dtype=dtype) * (size - 16)
        sides = 8 + torch.rand(count, 2, dtype=dtype) * (size - 8 - corner)
        ids = torch.randint(num_classes, (count, 1)).to(dtype)
        found.append(torch.cat((ids, corner, corner + sides), 1))
    return found


def outputs(objects, size: int, num_classes: int, dtype: torch.dtype = torch.float64):
    """Logits that find most objects more or less: each cell predicts a noisy copy of one of the image's objects."""
    raw = []
    for stride in STRIDES:
        cells = size // stride
        level = torch.randn(len(objects), 5 + num_classes, cells, cells, dtype=dtype)
        y, x = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
        for i, rows in enumerate(objects):
            rows = rows.to(dtype)
            pick = torch.randint(len(rows), (cells, cells)) if len(rows) else None
            if pick is None:
                continue
            boxes = rows[pick, 1:]  # [cells, cells, 4]
            centre, sides = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
            noise = 0.3 * torch.randn(4, cells, cells, dtype=dtype)
            level[i, 0] = centre[..., 0] / stride - x + noise[0]
            level[i, 1] = centre[..., 1] / stride - y + noise[1]
            level[i, 2:4] = (sides / stride).log().permute(2, 0, 1) + noise[2:]
        raw.append(level)
    return raw


def as_yolox(objects, dtype: torch.dtype = torch.float64):
    """Labels [N, K, 5] of the package yolox: class, cx, cy, w, h, padded with zeros."""
    labels = torch.zeros(len(objects), max(1, *(len(rows) for rows in objects)), 5, dtype=dtype)
    for i, rows in enumerate(objects):
        labels[i, : len(rows), 0] = rows[:, 0]
        labels[i, : len(rows), 1:3] = (rows[:, 1:3] + rows[:, 3:]) / 2
        labels[i, : len(rows), 3:] = rows[:, 3:] - rows[:, 1:3]
    return labels
