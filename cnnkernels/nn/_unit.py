"""How a run of children (convolution, BatchNorm, activation) is computed: the choice is made anew at every call.

================  ==================================================  ==================================================
path              when                                                what runs
================  ==================================================  ==================================================
train-fused       BatchNorm uses batch statistics                     ``dwconv_bn_act_train``; conv + ``bn_act_train``
folded            BatchNorm uses its running statistics               ``dwconv_bn_act``, or conv + ``bn_act``, or, without
                                                                      gradients: on a GPU in half types
                                                                      ``pointwise_conv_bn_act`` (1x1, where it is faster);
                                                                      on a CPU conv with folded weights, which
                                                                      ``pointwise_conv_bn_act`` (1x1), the kernel of first
                                                                      convolutions, Winograd's (3x3) or oneDNN computes
                                                                      with its activation and a sum as one call
plain             anything unusual, see ``untouched``; SyncBatchNorm  the children, one after the other, as modules
                  in training; tracing by torch.fx or torch.func
================  ==================================================  ==================================================

A convolution that is not depthwise is always called as a module, so its own hooks and class may be anything, except
where its weights are folded.  An activation that no op knows, or that has hooks, is called as a module after the fused
part.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from cnnkernels import _activation, _backend, _check, _op, ops
from cnnkernels.nn import _pointwise, _stem, _winograd
from cnnkernels.nn._fold import TENSORS, FoldsBatchNorm, are_constants, sources_of
from cnnkernels.nn.activation import activation_name
from cnnkernels.nn.conv_same import Conv2dSame

_FUNCTORCH_LEVEL = torch._C._functorch.peek_interpreter_stack
_IN_PLACE = {
    "identity": lambda y, slope: y,
    "relu": lambda y, slope: torch.relu_(y),
    "relu6": lambda y, slope: torch.clamp_(y, 0, 6),
    "leaky_relu": torch.nn.functional.leaky_relu_,
}
_ONEDNN = {
    "identity": "none",
    "relu": "relu",
    "relu6": "hardtanh",
    "leaky_relu": "leaky_relu",
    "silu": "swish",
    "hard_swish": "hardswish",
    "sigmoid": "sigmoid",
    "hard_sigmoid": "hardsigmoid",
}
_HAVE_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def untouched(module: nn.Module, *classes: type[nn.Module]) -> bool:
    """Exactly one of these classes (parametrisation, FSDP and quantisers change it), no hooks, forward not replaced.

    Only then does computing the module without calling it go unnoticed.
    """
    return type(module) in classes and not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def ordinary_call(x: object) -> bool:
    """x is a plain tensor (no torch.fx proxy, no subclass); nobody watches all modules or transforms the function.

    Nor asked for ``reference``: of a module that is its children.
    """
    if type(x) not in TENSORS or _has_any_global_hook() or _backend.STATE.wanted == "reference":
        return False
    return torch.compiler.is_compiling() or _FUNCTORCH_LEVEL() is None


def plain_tensor(x: Any) -> bool:
    """Whether x is what the kernels without an op of their own take, and nobody wants to see the modules."""
    return (
        type(x) is Tensor
        and ordinary_call(x)
        and not torch.compiler.is_compiling()
        and _backend.STATE.plain
        and not _op._dispatcher_is_needed()
        and x.is_cpu
        and x.dtype is torch.float32
    )


def plain_image(x: Any) -> bool:
    """The same of an image in channels_last."""
    return plain_tensor(x) and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and x.numel() > 0


def is_depthwise(conv: nn.Module | None) -> bool:
    """A Conv2d with one filter per channel, whatever its subclass."""
    return isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels == conv.out_channels


def readable(conv: Any, bn: Any) -> bool:
    """Whether the tensors of these modules are plain ones."""
    return all(t is None or type(t) in TENSORS for t in sources_of(conv, bn))


def fully_readable(conv: Any) -> bool:
    """A convolution whose weights an op may take instead of calling it."""
    return untouched(conv, nn.Conv2d, Conv2dSame) and conv.padding_mode == "zeros" and readable(conv, None)


def fully_readable_norm(bn: Any) -> bool:
    """A BatchNorm whose statistics and parameters an op may take instead of calling it."""
    return untouched(bn, nn.BatchNorm2d, nn.SyncBatchNorm) and readable(None, bn)


def padding_of(conv: nn.Conv2d, x: Tensor) -> tuple[int, ...]:
    """For images x: (top and bottom, left and right), or (left, right, top, bottom) where the two sides may differ."""
    if type(conv) is Conv2dSame:
        return conv.padding_for(x)
    if conv.padding == "valid":
        return (0, 0)
    if conv.padding == "same":
        (kh, kw), (dh, dw) = conv.kernel_size, conv.dilation
        h, w = dh * (kh - 1), dw * (kw - 1)
        return (w // 2, w - w // 2, h // 2, h - h // 2)
    return tuple(int(p) for p in conv.padding)


def plain(x: Any, conv: Any, bn: Any, act: Any, residual: Any = None, shortcut: Any = None) -> Any:
    for module in (conv, bn):
        if module is not None:
            x = module(x)
    if shortcut is not None:
        x = x + shortcut
    if act is not None:
        x = act(x)
    return x if residual is None else x + residual


def run(
    owner: FoldsBatchNorm,
    name: Any,
    x: Tensor,
    conv: Any,
    bn: Any,
    act: Any,
    residual: Tensor | None = None,
    shortcut: Tensor | None = None,
) -> Tensor:
    """``act(bn(conv(x)) + shortcut) + residual``; owner keeps folded results under ``name``.

    Any of the children may be None.
    """
    if type(bn) is nn.Identity and untouched(bn, nn.Identity):
        bn = None
    # Three dimensions are an image without a batch to Conv2d and an error to BatchNorm2d: theirs to say.
    if not ordinary_call(x) or x.dim() != 4 or not (bn is None or fully_readable_norm(bn)):
        return plain(x, conv, bn, act, residual, shortcut)
    fused_act = activation_name(act) if act is None or untouched(act, type(act)) else None
    may_read = conv is not None and fully_readable(conv)
    depthwise = may_read and is_depthwise(conv)
    foldable = may_read and not depthwise and may_fold_weights(x, conv, bn)
    if foldable and fused_act is not None and shortcut is None and _pointwise.suits(x, conv, residual):
        return _pointwise.run(owner, name, x, conv, bn, fused_act, residual)
    if may_read and fused_act is not None and shortcut is None and _pointwise.suits_gpu(x, conv, bn, residual):
        return _pointwise.run(owner, name, x, conv, bn, fused_act, residual)
    if foldable and fused_act is not None and shortcut is residual is None and _stem.suits(x, conv, fused_act):
        y = _stem.run(owner, name, x, conv, bn, fused_act, padding_of(conv, x)) if plain_image(x) else None
        if y is not None:
            return y
    if foldable and fused_act is not None and conv.kernel_size == (3, 3):
        padding = padding_of(conv, x)
        if _winograd.suits(x, conv, padding, shortcut, residual) and plain_image(x):
            y = _winograd.run(owner, name, x, conv, bn, fused_act, padding, shortcut, residual)
            if y is not None:
                return y
    if foldable and fused_act is not None and _one_call(x, conv, fused_act, (residual, shortcut)):
        return _onednn(owner, name, x, conv, bn, fused_act, residual, shortcut)
    if fused_act is None or shortcut is not None:
        # With the identity for an activation, what is added after it is added before it.
        y = run(owner, name, x, conv, bn, None, shortcut)
        return plain(y, None, None, act, residual)

    if bn is None:
        if depthwise:
            return _folded_depthwise(owner, name, x, conv, None, fused_act, residual)
        if foldable and fused_act.partition("(")[0] in _IN_PLACE:
            return _finish(conv(x), fused_act, residual)
        return plain(x, conv, None, act, residual)
    if bn.training or (bn.running_mean is None and bn.running_var is None):
        if type(bn) is nn.SyncBatchNorm:
            return plain(x, conv, bn, act, residual)
        return _train(x, conv, bn, fused_act, residual, depthwise)
    if depthwise:
        return _folded_depthwise(owner, name, x, conv, bn, fused_act, residual)
    if foldable and fused_act.partition("(")[0] in _IN_PLACE:
        folded = owner.folded(name, conv, bn, conv.weight.dtype, into_weight=True)
        return _finish(conv._conv_forward(x, folded.weight, folded.shift), fused_act, residual)
    y = x if conv is None else conv(x)
    folded = owner.folded(name, None, bn, _check.acc_dtype(y), into_weight=False)
    return ops.bn_act(y, folded.scale, folded.shift, act=fused_act, residual=residual)


def _folded_depthwise(
    owner: FoldsBatchNorm, name: Any, x: Tensor, conv: Any, bn: Any, act: str, residual: Tensor | None
) -> Tensor:
    folded = owner.folded(name, conv, bn, _check.acc_dtype(x), into_weight=False)
    return ops.dwconv_bn_act(
        x,
        folded.weight,  # type: ignore[arg-type]
        folded.scale,
        folded.shift,
        stride=conv.stride,
        padding=padding_of(conv, x),
        dilation=conv.dilation,
        act=act,
        residual=residual,
    )


def may_fold_weights(x: Tensor, conv: Any, bn: Any) -> bool:
    """Whether to give the convolution folded weights and a bias, instead of conv + ``bn_act``.

    On a CPU a convolution adds its bias for free.  cuDNN's bias is a pass of its own, half types would round the
    weights a second time, and a gradient needs the parts.
    """
    return (
        x.device.type == "cpu"
        and _backend.wanted() in (None, "cpu")
        and conv.weight.dtype in (torch.float32, torch.float64)
        and (bn is None or not (bn.training or bn.running_mean is None))
        and not torch.compiler.is_compiling()
        and not (
            torch.is_grad_enabled()
            and (x.requires_grad or any(t is not None and t.requires_grad for t in sources_of(conv, bn)))
        )
    )


def _one_call(x: Tensor, conv: Any, act: str, added: tuple[Tensor | None, ...]) -> bool:
    """Whether oneDNN may take convolution, bias, sum and activation as one call: plain float32 that nobody watches.

    Its weights, in the blocked order that it wants, are kept.  It answers in channels_last, so only that is given to it.
    Against conv2d and relu_ in channels_last (ResNet50's layers, one thread): 1.0 - 1.4x at 56 x 56, 1.1 - 2.3x at 7 x 7.
    """
    return (
        _HAVE_ONEDNN
        and act.partition("(")[0] in _ONEDNN
        and x.dtype is conv.weight.dtype is torch.float32
        and x.stride(1) == 1
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.shape[1] == conv.in_channels
        and x.numel() > 0
        and len(padding := padding_of(conv, x)) == 2
        # Else oneDNN's message says nothing.
        and x.shape[2] + 2 * padding[0] > conv.dilation[0] * (conv.kernel_size[0] - 1)
        and x.shape[3] + 2 * padding[1] > conv.dilation[1] * (conv.kernel_size[1] - 1)
        and are_constants(*added)
        and torch._C._get_mkldnn_enabled()
        and not _op._dispatcher_is_needed()
    )


def _onednn(
    owner: FoldsBatchNorm,
    name: Any,
    x: Tensor,
    conv: Any,
    bn: Any,
    act: str,
    residual: Tensor | None,
    shortcut: Tensor | None,
) -> Tensor:
    window = (padding_of(conv, x), conv.stride, conv.dilation, conv.groups)

    def reorder(weight: Tensor, shift: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_convolution_weight(weight, *window, x.shape)

    folded = owner.folded((name, "oneDNN"), conv, bn, torch.float32, into_weight=True, reorder=reorder)
    if shortcut is None and act == "identity":
        shortcut, residual = residual, None
    kind, slope = act.partition("(")[0], _activation.parse(act)[1]
    if shortcut is not None:
        after_sum = {"identity": None, "relu": "relu"}  # the only ones that oneDNN is offered there
        y = torch.ops.mkldnn._convolution_pointwise.binary(
            x, shortcut, folded.weight, folded.shift, *window, "add", 1.0, after_sum.get(kind), [], None
        )
        if kind not in after_sum:
            y = ops.activation(y, act)
    else:
        numbers = {"relu6": [0.0, 6.0], "leaky_relu": [slope]}.get(kind, [])
        y = torch.ops.mkldnn._convolution_pointwise(x, folded.weight, folded.shift, *window, _ONEDNN[kind], numbers, "")
    return y if residual is None else y.add_(residual)


def _finish(y: Tensor, act: str, residual: Tensor | None) -> Tensor:
    y = _IN_PLACE[act.partition("(")[0]](y, _activation.parse(act)[1])  # type: ignore[operator]
    if residual is None:
        return y
    return y.add_(residual) if residual.dtype is y.dtype else y + residual


def _train(x: Tensor, conv: Any, bn: Any, act: str, residual: Tensor | None, depthwise: bool) -> Tensor:
    """Batch statistics; running statistics updated as ``nn.BatchNorm2d.forward`` does, once the kernel has run."""
    update = bn.training and bn.track_running_stats and bn.running_mean is not None
    counting = update and bn.num_batches_tracked is not None
    if not update:
        momentum = 0.0
    elif bn.momentum is not None:
        momentum = bn.momentum
    else:
        momentum = 1.0 / (float(bn.num_batches_tracked) + 1.0) if counting else 0.0
    running = (bn.running_mean, bn.running_var) if update else (None, None)
    if depthwise and conv.bias is None and x.shape[0] > 0:
        y = ops.dwconv_bn_act_train(
            x,
            conv.weight,
            bn.weight,
            bn.bias,
            *running,
            eps=bn.eps,
            momentum=momentum,
            stride=conv.stride,
            padding=padding_of(conv, x),
            dilation=conv.dilation,
            act=act,
        )
    else:
        # A bias before batch statistics is subtracted again, but it belongs in the running mean: torch adds it.
        # Of an empty batch dwconv_bn_act_train takes no statistics; BatchNorm2d passes one on, as bn_act_train does.
        x = x if conv is None else conv(x)
        y = ops.bn_act_train(x, bn.weight, bn.bias, *running, eps=bn.eps, momentum=momentum, act=act)
    if counting:
        bn.num_batches_tracked.add_(1)
    return y if residual is None else y + residual
