"""Convolution + BatchNorm + activation as one module with three real children: ``conv``, ``bn`` and ``act``."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from cnnkernels import _backend
from cnnkernels._op import REGISTRY
from cnnkernels.nn import _unit
from cnnkernels.nn._fold import FoldsBatchNorm, fold
from cnnkernels.nn._plan import Plan
from cnnkernels.nn._unit_plan import unit_plan
from cnnkernels.nn.activation import create_activation
from cnnkernels.nn.conv_same import Conv2dSame


def same_padding(kernel_size: Any, dilation: Any) -> tuple[int, int]:
    """Padding that keeps the size at stride 1, for odd kernels."""
    kernel, step = nn.modules.utils._pair(kernel_size), nn.modules.utils._pair(dilation)
    if any(k % 2 == 0 for k in kernel):
        raise ValueError(f"kernel_size must be odd where no padding is given, got {kernel_size}")
    return step[0] * (kernel[0] // 2), step[1] * (kernel[1] // 2)


def conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A new convolution with the geometry of conv and these parameters; they want gradients where conv's weight does."""
    new = (Conv2dSame if type(conv) is Conv2dSame else nn.Conv2d)(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        padding_mode=conv.padding_mode,
        device="meta",
    ).train(conv.training)
    new.weight = nn.Parameter(weight, conv.weight.requires_grad)
    new.bias = nn.Parameter(bias, conv.weight.requires_grad)
    return new


def fold_conv(conv: nn.Conv2d, bn: Any) -> nn.Conv2d:
    """A new Conv2d with a bias, equal to ``bn(conv(x))`` with running statistics."""
    with torch.no_grad():
        folded = fold(conv, bn, conv.weight.dtype, into_weight=True)
    assert folded.weight is not None
    return conv_like(conv, folded.weight, folded.shift)


def can_fold(conv: Any, bn: Any) -> bool:
    """Whether ``fold_conv`` gives what the two modules compute in evaluation."""
    return (
        _unit.untouched(conv, nn.Conv2d, Conv2dSame)
        and _unit.untouched(bn, nn.BatchNorm2d, nn.SyncBatchNorm)
        and bn.running_mean is not None
    )


class ConvBNAct(FoldsBatchNorm):
    """``act(bn(conv(x)))`` with BatchNorm and activation in one pass behind torch's convolution.

    In training the statistics, the normalisation and the activation are ``ops.bn_act_train``; in evaluation BatchNorm
    is folded.  A depthwise convolution runs fused as a whole, as in ``DWConvBNAct``.  The children are ordinary:
    with hooks, parametrisations or classes of their own they are called one after the other.

    in_channels, out_channels, kernel_size, stride, dilation, groups, bias: as for ``torch.nn.Conv2d``.
    padding: None keeps the size at stride 1 (odd kernels).
    act: a name from ``cnnkernels._activation``, such as "relu6" or "leaky_relu(0.1)".
    eps, momentum: of the BatchNorm.

    x: [N, in_channels, H, W], returns [N, out_channels, H', W'] in x's dtype and layout.
    residual: of the result's shape, added to it after the activation, in the same pass.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 1,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str | None = None,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        act: str = "relu",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if padding is None:
            padding = same_padding(kernel_size, dilation)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv: Any = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, **where
        )
        self.bn: Any = nn.BatchNorm2d(out_channels, eps, momentum, **where)
        self.act: Any = create_activation(act)

    @classmethod
    def from_modules(cls, conv: nn.Conv2d, bn: nn.Module | None = None, act: nn.Module | None = None) -> Self:
        """Around existing modules, which are shared, not copied.  None stands for ``nn.Identity()``."""
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f"{cls.__name__}.from_modules: conv must be a torch.nn.Conv2d, got {type(conv).__name__}")
        for name, child in (("bn", bn), ("act", act)):
            if child is not None and not isinstance(child, nn.Module):
                raise TypeError(
                    f"{cls.__name__}.from_modules: {name} must be a torch.nn.Module or None, got {type(child).__name__}"
                )
        wide = isinstance(bn, (nn.BatchNorm2d, nn.SyncBatchNorm)) and bn.num_features  # 0: a lazy one, yet to be made
        if wide and wide != conv.out_channels:
            raise ValueError(
                f"{cls.__name__}.from_modules: bn must have the {conv.out_channels} channels that conv returns, "
                f"got num_features={wide}"
            )
        new = cls.__new__(cls)
        FoldsBatchNorm.__init__(new)
        new.conv = conv
        new.bn = nn.Identity() if bn is None else bn
        new.act = nn.Identity() if act is None else act
        new.training = conv.training
        return new

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return _unit.run(self, None, x, self.conv, self.bn, self.act, residual)

    def _plan(self, x: Tensor) -> Plan | None:
        return unit_plan(self, x, self.conv, self.bn, self.act)

    def fuse(self) -> Self:
        """This module without BatchNorm, equal in evaluation: BatchNorm is folded into a new convolution with a bias.

        Returns itself where that cannot be done (no running statistics, hooks, other classes of children).
        """
        if not can_fold(self.conv, self.bn):
            return self
        new = type(self).from_modules(fold_conv(self.conv, self.bn), None, self.act)
        new.training = self.training
        new._fused_from = (self,)
        return new

    def unfuse(self) -> Self:
        """The module on which ``fuse()`` was called, as it is now; itself if it is not the result of ``fuse()``."""
        return self._fused_from[0] if self._fused_from else self

    _fused_from: tuple[Self, ...] = ()  # in a tuple, so that it is no child

    def extra_repr(self) -> str:
        name = "dwconv_bn_act" if _unit.is_depthwise(self.conv) else "bn_act"
        return f"backend={_backend.wanted() or REGISTRY[name].default_backend(self.conv.weight.device.type)}"


class DWConvBNAct(ConvBNAct):
    """``act(bn(conv(x)))`` for a depthwise convolution, as one op: ``ops.dwconv_bn_act`` and ``dwconv_bn_act_train``.

    channels: of x and of the result; one kernel_size filter each.
    Everything else as in ``ConvBNAct``.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str | None = None,
        dilation: int | tuple[int, int] = 1,
        act: str = "relu6",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            channels,
            channels,
            kernel_size,
            stride,
            padding,
            dilation,
            channels,
            act,
            eps,
            momentum,
            bias,
            device,
            dtype,
        )

    @classmethod
    def from_modules(cls, conv: nn.Conv2d, bn: nn.Module | None = None, act: nn.Module | None = None) -> Self:
        if isinstance(conv, nn.Conv2d) and not _unit.is_depthwise(conv):
            raise ValueError(
                "DWConvBNAct.from_modules: conv must have groups == in_channels == out_channels, "
                f"got groups={conv.groups}, in_channels={conv.in_channels}, out_channels={conv.out_channels}"
            )
        return super().from_modules(conv, bn, act)
