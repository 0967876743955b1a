"""Base of blocks and networks whose convolution, BatchNorm and activation are children with names of their own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cnnkernels.nn import _unit
from cnnkernels.nn._fold import FoldsBatchNorm


class FusedBlock(FoldsBatchNorm):
    """Runs named children as one: ``self.fused(x, "conv1", "bn1", "relu")`` is ``relu(bn1(conv1(x)))``.

    So that a block can keep the parameter names of published checkpoints (``conv1.weight``, ``bn1.bias``) and be
    computed as ``ConvBNAct`` computes its children, with the same rules about hooks and unusual classes.
    """

    def fused(
        self,
        x: Tensor,
        conv: str | None,
        bn: str | None = None,
        act: str | None = None,
        residual: Tensor | None = None,
        shortcut: Tensor | None = None,
    ) -> Tensor:
        """``act(bn(conv(x)) + shortcut) + residual``; each name is that of a child, None leaves it out.

        shortcut is added before the activation (ResNet), residual after it (MobileNetV2, Darknet).
        """
        children: dict[str, Any] = self._modules
        of_conv, of_bn, of_act = (None if name is None else children[name] for name in (conv, bn, act))
        name = conv if conv is not None else bn
        return _unit.run(self, name, x, of_conv, of_bn, of_act, residual, shortcut)
