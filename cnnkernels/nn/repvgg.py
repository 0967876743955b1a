"""RepVGG's block: three branches in training, one convolution afterwards."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from cnnkernels import _layout
from cnnkernels.nn import _unit
from cnnkernels.nn._block import FusedBlock
from cnnkernels.nn._fold import scale_and_shift, scaled_weight, sources_of
from cnnkernels.nn.conv import ConvBNAct, can_fold, conv_like


def merge_branches(dense: tuple[Any, Any], pointwise: tuple[Any, Any], identity: Any) -> tuple[Tensor, Tensor]:
    """Weight [out, in / groups, K, K] and bias [out] of the one convolution that equals the sum of the branches.

    Ding et al. 2021, arXiv:2101.03697, section 3.3, computed in float64 and rounded once.  dense, pointwise: (conv, bn).
    identity: a BatchNorm or None.  Of each only tensors and ``eps`` are read.
    """
    double = torch.float64
    scale, bias = scale_and_shift(dense[1], dense[0].bias, dense[0].weight, double)
    weight = scaled_weight(dense[0], scale)
    centre = weight.shape[2] // 2
    scale, shift = scale_and_shift(pointwise[1], pointwise[0].bias, pointwise[0].weight, double)
    weight[:, :, centre, centre] += scaled_weight(pointwise[0], scale)[:, :, 0, 0]
    bias = bias + shift
    if identity is not None:
        scale, shift = scale_and_shift(identity, None, weight, double)
        rows = torch.arange(weight.shape[0], device=weight.device)
        weight[rows, rows % weight.shape[1], centre, centre] += scale  # the channel's place within its group
        bias = bias + shift
    dtype = dense[0].weight.dtype
    return weight.to(dtype), bias.to(dtype)


class RepVGGBlock(FusedBlock):
    """``relu(bn(conv3x3(x)) + bn(conv1x1(x)) + bn(x))``: Ding et al. 2021, "RepVGG", arXiv:2101.03697, figure 4.

    in_channels, out_channels, stride, groups: of both convolutions.  The third branch is there where it can be: at
    stride 1 with as many channels out as in.  deploy: one 3x3 convolution with a bias from the start.

    x: [N, in_channels, H, W], returns [N, out_channels, ceil(H / stride), ceil(W / stride)] in x's dtype.

    Keys as in the authors' code: ``rbr_dense.conv.weight``, ``rbr_dense.bn.*``, ``rbr_1x1.*``, ``rbr_identity.*``; of
    the deploy form ``rbr_reparam.weight``, ``rbr_reparam.bias``.  In training each BatchNorm is ``ops.bn_act_train``.
    In evaluation without gradients the branches are merged once, and every call is the deploy form's one convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, groups: int = 1, deploy: bool = False
    ) -> None:
        super().__init__()
        self.nonlinearity: Any = nn.ReLU(inplace=True)
        if deploy:
            self.rbr_reparam: Any = nn.Conv2d(in_channels, out_channels, 3, stride, 1, groups=groups)
            return
        identity = stride == 1 and in_channels == out_channels
        self.rbr_identity: Any = nn.BatchNorm2d(in_channels) if identity else None
        self.rbr_dense: Any = ConvBNAct(in_channels, out_channels, 3, stride, groups=groups, act="identity")
        self.rbr_1x1: Any = ConvBNAct(in_channels, out_channels, 1, stride, groups=groups, act="identity")

    @classmethod
    def from_branches(
        cls, dense: ConvBNAct, pointwise: ConvBNAct, identity: nn.Module | None, nonlinearity: nn.Module | None
    ) -> Self:
        """Around existing modules, which are shared, not copied; without an activation it is the sum of the branches."""
        new = cls.__new__(cls)
        FusedBlock.__init__(new)
        new.rbr_dense, new.rbr_1x1, new.rbr_identity = dense, pointwise, identity
        new.nonlinearity = nn.Identity() if nonlinearity is None else nonlinearity
        return new

    def forward(self, x: Tensor) -> Tensor:
        if self.is_deployed:
            return self.fused(x, "rbr_reparam", None, "nonlinearity")
        merged = None
        if _unit.ordinary_call(x) and self._can_merge() and self._uses_running_statistics():
            merged = self._kept_merged()
        if merged is not None:
            return _unit.run(self, "merged", x, merged, None, self.nonlinearity)
        narrow = x.is_cpu and x.shape[1] < _layout.OVERRUNS_BELOW
        y = self.rbr_dense(x) + self.rbr_1x1(x.contiguous() if narrow else x)
        if self.rbr_identity is not None:
            y += self.fused(x, None, "rbr_identity")
        return self.nonlinearity(y)

    @property
    def is_deployed(self) -> bool:
        """Whether the block is one convolution, ``rbr_reparam``, and has no branches."""
        return "rbr_reparam" in self._modules

    def _branches(self) -> tuple[Any, Any]:
        return self.rbr_dense, self.rbr_1x1

    def _convolutions(self) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        return (self.rbr_dense.conv, self.rbr_dense.bn), (self.rbr_1x1.conv, self.rbr_1x1.bn)

    def _can_merge(self) -> bool:
        """Whether one convolution gives what the children compute in evaluation."""
        (dense, _), (pointwise, _) = pairs = self._convolutions()
        identity = self.rbr_identity
        return (
            all(_unit.untouched(m, ConvBNAct) and _unit.untouched(m.act, nn.Identity) for m in self._branches())
            and all(can_fold(*p) and _unit.fully_readable(p[0]) and _unit.readable(*p) for p in pairs)
            and (identity is None or (can_fold(dense, identity) and _unit.readable(None, identity)))
            and (dense.kernel_size, dense.padding, dense.dilation) == ((3, 3), (1, 1), (1, 1))
            and (pointwise.kernel_size, pointwise.padding) == ((1, 1), (0, 0))
            and (dense.stride, dense.groups) == (pointwise.stride, pointwise.groups)
        )

    def _uses_running_statistics(self) -> bool:
        return not any(m.training for m in (self.rbr_dense.bn, self.rbr_1x1.bn, self.rbr_identity) if m is not None)

    def _merge(self) -> nn.Conv2d:
        with torch.no_grad():
            weight, bias = merge_branches(*self._convolutions(), self.rbr_identity)
        return conv_like(self.rbr_dense.conv, weight, bias)

    def _kept_merged(self) -> nn.Conv2d | None:
        """The merged convolution; None where it must not be kept, as merging anew costs more than the branches."""
        dense, pointwise = self._convolutions()
        sources = (*sources_of(*dense), *sources_of(*pointwise), *sources_of(None, self.rbr_identity))
        norms = (dense[1], pointwise[1], self.rbr_identity)
        state = (dense[0].stride, dense[0].groups, *(norm if norm is None else norm.eps for norm in norms))
        return self.kept("merged branches", sources, state, self._merge)

    def fuse(self) -> Self:
        """The block's deploy form as a new module, equal in evaluation.

        Returns itself where that cannot be done (no running statistics, hooks, other classes of children) or was.
        """
        if self.is_deployed or not self._can_merge():
            return self
        new = type(self).__new__(type(self))
        FusedBlock.__init__(new)
        new.nonlinearity, new.rbr_reparam = self.nonlinearity, self._merge()
        new.training = self.training
        new._fused_from = (self,)
        return new

    def unfuse(self) -> Self:
        """The module on which ``fuse()`` was called, as it is now; itself if it is not the result of ``fuse()``."""
        return self._fused_from[0] if self._fused_from else self

    _fused_from: tuple[Self, ...] = ()  # in a tuple, so that it is no child

    def switch_to_deploy(self) -> None:
        """Replaces the branches by ``rbr_reparam``, for good.  ValueError where ``fuse()`` could not do it either."""
        if self.is_deployed:
            return
        if not self._can_merge():
            raise ValueError(
                "RepVGGBlock.switch_to_deploy: the branches must be Conv2d and BatchNorm2d with running statistics, "
                "without hooks or parametrisations"
            )
        self.rbr_reparam = self._merge()
        for name in ("rbr_identity", "rbr_dense", "rbr_1x1"):
            delattr(self, name)
        self._folds.clear()
