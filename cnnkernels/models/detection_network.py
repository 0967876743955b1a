"""What every detector can do, whatever its backbone, neck and head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from cnnkernels.models.network import SwitchedNetwork


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a detector's input, as its authors trained it: scaled to fit, padded, then
    ``(pixel / scale - mean) / std`` for each channel."""

    bgr: bool = False
    """Channels in the order blue, green, red."""
    scale: float = 255.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    fill: tuple[int, int, int] = (114, 114, 114)
    """Of the padding: red, green, blue, 0 to 255."""
    centred: bool = True
    """Padding on both sides; False: the picture is at the top left."""


class DetectionNetwork(SwitchedNetwork):
    """x: [N, in_chans, H, W], prepared as ``preprocessing`` says, H and W multiples of ``max(strides)``.

    In training ``model(x)`` returns ``raw(x)``: what the family's loss takes.  In evaluation it returns ``decode`` of that,
    the predictions [N, candidates, 5 + num_classes] of every detector:

        cx, cy, w, h       the box, in pixels of x
        objectness         0 to 1; 1 where a family has none
        class scores       0 to 1, independent of each other: the score of class c is objectness * class score c

    A subclass builds its children under their published names, sets ``num_classes``, ``backend`` (None) and ``strides``,
    and defines ``raw`` and ``decode``.
    """

    preprocessing: ClassVar[Preprocessing] = Preprocessing()

    num_classes: int
    strides: tuple[int, ...]
    """Of the levels that predictions come from, in their order."""
    left_out: tuple[str, ...] = ()
    """Beginnings of checkpoint keys that the network has no use for."""

    def raw(self, x: Tensor) -> Any:
        """The head's outputs, logits and box codes; ``x`` channels_last on a CPU."""
        raise NotImplementedError

    def decode(self, raw: Any) -> Tensor:
        """Predictions [N, candidates, 5 + num_classes] of ``raw``, in pixels of the input."""
        raise NotImplementedError

    def _forward(self, x: Tensor) -> Any:
        stride = max(self.strides)
        if x.dim() != 4 or x.shape[2] % stride or x.shape[3] % stride or not x.shape[2] * x.shape[3]:
            raise ValueError(
                f"{type(self).__name__}: x must be [N, C, H, W] with H and W multiples of {stride}, got {list(x.shape)}"
            )
        raw = self.raw(self._as_computed(x))
        return raw if self.training else self.decode(raw)
