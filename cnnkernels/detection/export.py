"""A detector as a file for other runtimes: network, decoding and NMS in one graph, boxes out."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels._files import write_whole
from cnnkernels.detection.postprocess import postprocess
from cnnkernels.export.onnx_model import OLDEST_OPSET, onnx_model
from cnnkernels.models.detection_network import DetectionNetwork

OUTPUTS = ("boxes", "scores", "labels", "count")


class Exportable(nn.Module):
    """A detector with its post-processing, from tensor to tensors: what ``torch.export.export`` and ONNX take.

    network: in evaluation.
    options: of ``postprocess``.

    x [N, C, H, W], prepared as ``network.preprocessing`` says, becomes the plain tuple of ``Found``: boxes
    [N, max_detections, 4], scores and labels [N, max_detections], count [N].

    Raises ValueError for a network in training, TypeError for options that ``postprocess`` does not have.
    """

    def __init__(self, network: DetectionNetwork, **options: Any) -> None:
        super().__init__()
        if network.training:
            raise ValueError("Exportable: the network must be in evaluation: network.eval()")
        inspect.signature(postprocess).bind(None, **options)
        self.network, self.options = network, options
        self.training = False

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        found = postprocess(self.network(x), **self.options)
        return found.boxes, found.scores, found.labels, found.counts


def export_onnx(
    network: DetectionNetwork,
    path: str | os.PathLike[str],
    size: int | tuple[int, int],
    *,
    batch: int | None = 1,
    in_chans: int = 3,
    opset: int | None = None,
    **options: Any,
) -> None:
    """Writes ``Exportable(network, **options)`` as an ONNX file of standard operators; the boxes are those of PyTorch.

    size: of the input, (height, width) or one number for a square; multiples of ``max(network.strides)``.
    batch: images of an input; None: any number of them.
    opset: version of ONNX's operators, 18 or more; by default torch.onnx's.
    options: of ``postprocess``.

    The input is called "images", the outputs "boxes", "scores", "labels" and "count".  The file's metadata holds
    ``network.preprocessing`` as JSON.  The network stays as it is; a file is written whole or not at all.

    Raises ImportError without onnx and onnxscript, ValueError for a network in training, a size, batch or opset out of
    range, TypeError for options that ``postprocess`` does not have, OSError.
    """
    module = Exportable(network, **options)
    height, width = (size, size) if isinstance(size, int) else size
    if batch is not None and batch < 1:
        raise ValueError(f"export_onnx: batch must be at least 1, or None, got {batch}")
    if opset is not None and opset < OLDEST_OPSET:
        raise ValueError(f"export_onnx: opset must be at least {OLDEST_OPSET}, got {opset}")
    like = next(network.parameters())
    x = torch.zeros(2 if batch is None else batch, in_chans, height, width, dtype=like.dtype, device=like.device)
    model = onnx_model(module, [x], inputs=["images"], outputs=OUTPUTS, dynamic_batch=batch is None, opset=opset)
    model.metadata_props.add(key="preprocessing", value=json.dumps(dataclasses.asdict(network.preprocessing)))
    write_whole(path, model.SerializeToString())
