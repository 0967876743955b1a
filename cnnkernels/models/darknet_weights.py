"""Weight files of the Darknet framework (``.weights``): numbers one after the other, without names or shapes.

A header of three int32 (major, minor, revision) and the number of images seen, an int64 from version 0.2 on, before that
an int32.  Then, little-endian float32, the convolutions in the order of the configuration file: beta, gamma, mean and
variance of the BatchNorm, or the bias where there is none, then the weights.

``create_model("yolov4", pretrained="yolov4.weights")`` reads them, for the networks of ``darknet``, ``yolov3`` and ``yolov4``.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from cnnkernels.models.checkpoint import load_state, register_reader
from cnnkernels.models.darknet import CrossStage, Darknet
from cnnkernels.models.darknet_detector import DarknetDetector
from cnnkernels.nn import ConvBNAct

Readable = Darknet | DarknetDetector

_NEWEST = 1000  # Darknet itself reads files of later versions as matrices stored the other way round.


@dataclass(frozen=True)
class _Convolution:
    """One convolution of the configuration file."""

    name: str
    """Of our ``ConvBNAct``, or of an ``nn.Conv2d`` with a bias and without BatchNorm."""
    rows: slice = field(default_factory=lambda: slice(None))
    """The channels of it that this convolution returns."""
    swapped: bool = False
    """Whether the file has the two halves of its input channels the other way round."""
    norm: bool = True
    """Whether it has BatchNorm."""

    def tensors(self) -> list[str]:
        """Of the tensors that the file has one after the other."""
        if not self.norm:
            return [f"{self.name}.bias", f"{self.name}.weight"]
        norm = ("bias", "weight", "running_mean", "running_var")
        return [*(f"{self.name}.bn.{key}" for key in norm), f"{self.name}.conv.weight"]


def _convolutions(model: Readable) -> Iterator[_Convolution]:
    """In the file's order, which is that of our children.

    The configuration of CSPDarknet53 has two convolutions for our ``conv_exp``, that of the half which passes first,
    and joins the halves before the last convolution of a stage as (blocks, passing half), we as (passing half, blocks).
    """
    modules = dict(model.named_modules())
    for name, module in modules.items():
        parent, _, leaf = name.rpartition(".")
        stage = modules[parent]
        if isinstance(module, nn.Conv2d) and not isinstance(stage, ConvBNAct):
            yield _Convolution(name, norm=False)
        if not isinstance(module, ConvBNAct):
            continue
        if not isinstance(module.bn, nn.BatchNorm2d):
            raise ValueError(f"Darknet weights: {name} has no BatchNorm; they are those of a network before fuse()")
        if isinstance(stage, CrossStage) and leaf == "conv_exp":
            yield _Convolution(name, slice(0, stage.split_width))
            yield _Convolution(name, slice(stage.split_width, None))
        else:
            yield _Convolution(name, swapped=isinstance(stage, CrossStage) and leaf == "conv_transition")


def _halves_swapped(weight: Tensor) -> Tensor:
    first, second = weight.chunk(2, dim=1)
    return torch.cat((second, first), dim=1)


def _numbers(path: pathlib.Path) -> Tensor:
    """What follows the header, [n] float32.  Raises ValueError where there is no such header."""
    content = path.read_bytes()
    header = np.frombuffer(content[:12], "<i4") if len(content) >= 12 else np.array([-1, -1, -1])
    major, minor = int(header[0]), int(header[1])
    if not (0 <= major < _NEWEST and 0 <= minor < _NEWEST):
        raise ValueError(f"{path} is not a Darknet weight file: it does not start with a version number of Darknet's")
    start = 12 + (8 if major * 10 + minor >= 2 else 4)
    if len(content) < start or (len(content) - start) % 4:
        raise ValueError(
            f"{path} is not a whole Darknet weight file: {len(content)} bytes, of which a header takes {start} and "
            "the rest are numbers of 4 bytes"
        )
    return torch.from_numpy(np.frombuffer(content, "<f4", offset=start).astype(np.float32))


def _rest(model: Readable, path: pathlib.Path, given: int, taken: int) -> int:
    """How many numbers follow those of the convolutions: a classifier's.  Raises ValueError where they do not fit."""
    rest = given - taken
    if isinstance(model, Darknet):
        row = model.num_features + 1
        if rest < 0 or rest % row:
            raise ValueError(
                f"{path} does not fit {type(model).__name__}: it has {given:,} numbers, the convolutions take "
                f"{taken:,} of them and a classifier {row:,} for every class"
            )
    elif rest:
        row = sum(head.anchors * (head.pred.in_channels + 1) for head in model.heads())
        classes = model.num_classes + rest // row
        hint = "" if rest % row or classes < 1 else f"; with num_classes={classes} it fits"
        raise ValueError(
            f"{path} does not fit {type(model).__name__}: it has {given:,} numbers, a network of {model.num_classes} "
            f"classes takes {taken:,}{hint}"
        )
    return rest


def read_darknet_weights(model: nn.Module, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """A weight file as a state_dict with our keys, float32.

    model: the ``Darknet`` or ``DarknetDetector`` that the file is for; only shapes are read, so it may be on the meta
    device.  A classifier's file may end with the trunk (``darknet53.conv.74``) or have any number of classes.

    Raises ValueError for another network, a file that is not Darknet's, and one that is too short or too long.
    """
    path = pathlib.Path(path)
    if not isinstance(model, (Darknet, DarknetDetector)):
        raise ValueError(f"{path}: Darknet weight files are for Darknet networks, got {type(model).__name__}")
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file {path}")
    parts, own = list(_convolutions(model)), model.state_dict()
    state = {key: torch.empty(own[key].shape) for part in parts for key in part.tensors()}
    numbers = _numbers(path)
    rest = _rest(model, path, numbers.numel(), sum(t.numel() for t in state.values()))
    at = 0
    for part in parts:
        for place in (state[key][part.rows] for key in part.tensors()):
            given = numbers[at : at + place.numel()].view(place.shape)
            at += place.numel()
            place.copy_(_halves_swapped(given) if part.swapped and place.dim() == 4 else given)
        if part.norm and not bool((state[f"{part.name}.bn.running_var"][part.rows] >= 0).all()):
            raise ValueError(f"{path} does not fit {type(model).__name__}: {part.name} would have negative variances")
    if rest and isinstance(model, Darknet):
        classes = rest // (model.num_features + 1)
        state[f"{model.last_layer}.bias"] = numbers[at : at + classes]
        state[f"{model.last_layer}.weight"] = numbers[at + classes :].view(classes, model.num_features)
    return state


def load_darknet_weights(model: Readable, path: str | os.PathLike[str]) -> None:
    """Copies a weight file into the network if it fits exactly; else raises ValueError and has changed nothing.

    ``create_model(name, pretrained=PATH)`` does this for files called ``.weights``, also for a network that
    ``out_indices`` has cut short; here the name may be any: ``darknet53.conv.74`` is for the backbone of a YOLOv3, too,
    ``load_darknet_weights(model.backbone, PATH)``.
    """
    load_state(model, read_darknet_weights(model, path), path, model.left_out)


def save_darknet_weights(model: Readable, path: str | os.PathLike[str], seen: int = 0) -> None:
    """Writes the network as a weight file of version 0.2.  seen: images that it was trained on.

    Raises ValueError for a network without BatchNorm (after ``fuse()``).
    """
    state = {k: v.detach().float().cpu() for k, v in model.state_dict().items()}
    tensors = []
    for part in _convolutions(model):
        *first, weight = (state[key][part.rows] for key in part.tensors())
        tensors += [*first, _halves_swapped(weight) if part.swapped else weight]
    if isinstance(model, Darknet) and f"{model.last_layer}.weight" in state:
        tensors += [state[f"{model.last_layer}.bias"], state[f"{model.last_layer}.weight"]]
    with pathlib.Path(path).open("wb") as file:
        file.write(np.array([0, 2, 0], "<i4").tobytes() + np.array([seen], "<i8").tobytes())
        for tensor in tensors:
            file.write(tensor.contiguous().numpy().astype("<f4").tobytes())


register_reader(".weights", read_darknet_weights)
