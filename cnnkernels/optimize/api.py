"""``cnnkernels.optimize``: somebody's network on the fused ops, where that gains something."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cnnkernels.optimize._choose import Options
from cnnkernels.optimize._compare import Differs, attempt, distance, tolerance, without_dropout
from cnnkernels.optimize._graphs import Graphs
from cnnkernels.optimize._measure import (
    in_channels_last,
    kept_bytes,
    latencies,
    overruns_in_channels_last,
    trains_faster_in_channels_last,
    written_bytes,
)
from cnnkernels.optimize._parts import prepare
from cnnkernels.optimize._undisturbed import copied, undisturbed
from cnnkernels.optimize.model import Optimized, State, attach, twin_of
from cnnkernels.optimize.report import Entry, Report

MODES = ("infer", "train")


def optimize(
    model: nn.Module,
    example: Any,
    mode: str = "infer",
    *,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
    verify: bool = True,
    tune: bool = True,
    cuda_graph: bool = False,
) -> tuple[nn.Module, Report]:
    """``fast, report = optimize(model, example)``: the same network on the fused ops of this package.

    model: of torchvision, timm, YOLOX or home-made.  It is left as it is: the result has modules of its own, on the same
        parameters and buffers (training one trains the other), the same class, attributes and ``state_dict`` keys.
    example: an input such as it will see: a tensor, or a tuple of positional arguments.  Other batch sizes and image sizes
        are fine later; timings are for this one.
    mode: "infer": evaluation; convolutions, BatchNorm, activation, residual sums, squeeze-and-excitation, inverted
        residuals, shuffles, RepVGG's branches run as single kernels on folded weights (folded in float64), which follow
        when parameters change; results have no gradient history unless an argument asks for one.
        "train": forward and backward passes as well as evaluation, with the gradients and statistics of the modules.
    dtype: of a copy of the model; its parameters are then no longer shared.  Arguments must have it, too.
    memory_format: in which images are computed: torch.channels_last (one conversion at the entry) or torch.contiguous_format
        (as they come).  None: channels_last, in which convolutions are faster; but in training with ``tune`` the layout in
        which the network's own modules are faster.
    verify: every region, and the whole, is compared with the network's own modules on the example; what differs by more than
        rounding is undone.
    tune: every region is timed beside its modules; what is slower is undone, and if the whole gains nothing, everything.

    cuda_graph: in mode "infer" on a GPU, a call replays a CUDA graph of the network, made at the first call of its sizes (for
        up to 8 of them), which takes memory for all that the network computes.  It follows parameters and modules when they
        change.  A network that waits for the GPU in between warns, and runs without.  With it ``tune`` compares regions by
        the GPU's time alone.

    What cannot be traced by torch.fx is called as it is, and the modules in it are looked at one by one.

    Returns (network, ``Report``).  ``cnnkernels.restore(network)`` gives the model back.  An optimised model is returned as
    it is, if it has the mode.  TypeError and ValueError for other arguments; an error of ``model(*example)`` is passed on.
    """
    args = copied(_checked(model, example, mode, dtype))
    training = mode == "train"
    report = Report(type(model).__name__, mode, _text(args), _device_text(args))
    if isinstance(model, Optimized):
        return _again(model, training, report)
    _check_graph(cuda_graph, training, args)
    options = Options(verify, tune, training, _channels_last(memory_format, args), cuda_graph)
    with undisturbed(model):
        twin, plain = (_copy(model, dtype, training) for _ in range(2))
        with torch.no_grad():
            (copy.deepcopy(twin) if training else twin)(*copied(args))  # an error here is the model's own
        if type(model).__module__.startswith("cnnkernels.models."):
            state = State({})
            report.notes.append("a network of this package: it runs on the fused ops by itself")
        else:
            if training and options.channels_last and (why := _better_left(plain, args, memory_format, tune)):
                options = replace(options, channels_last=False)
                report.notes.append(f"images stay in their layout: {why}")
            state = prepare(twin, args, options, report)
        if dtype is None:
            state.original = (model,)
        state.graphs = Graphs() if cuda_graph else None
        attach(twin, state)
        _judge_whole(twin, plain, args, options, report)
        if state.graphs is not None:
            refusal = state.graphs.refusal
            report.notes.append(
                "calls replay a CUDA graph" if refusal is None else f"there is no CUDA graph: {refusal}"
            )
    return twin, report


def _copy(model: nn.Module, dtype: torch.dtype | None, training: bool) -> nn.Module:
    """Modules of its own, in the mode; on the same parameters and buffers unless they get another dtype."""
    twin = twin_of(model) if dtype is None else copy.deepcopy(model).to(dtype)
    return twin if twin.training == training else twin.train(training)


def _checked(model: Any, example: Any, mode: str, dtype: Any) -> tuple[Any, ...]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"optimize: model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("optimize: a ScriptModule has no Python forward; optimize the module that it was made from")
    if mode not in MODES:
        raise ValueError(f"optimize: mode must be one of {', '.join(MODES)}, got {mode!r}")
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"optimize: dtype must be a torch.dtype or None, got {dtype!r}")
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"optimize: dtype must be of floating point, got {dtype}")
    args = tuple(example) if isinstance(example, (tuple, list)) else (example,)
    if not any(isinstance(a, Tensor) for a in args):
        raise TypeError(f"optimize: example must be a tensor or a tuple with one, got {type(example).__name__}")
    if "forward" in vars(model):
        raise ValueError("optimize: forward of this model object was replaced; optimize the model before that")
    return args


def _again(model: Optimized, training: bool, report: Report) -> tuple[nn.Module, Report]:
    if model.has_mode(not training) and not model.has_mode(training):
        raise ValueError(
            f"optimize: the model is optimised already, for another mode; optimize(restore(model), ..., mode={report.mode!r})"
        )
    report.notes.append("it was optimised before and is returned as it is; restore() gives the network back")
    return model, report


def _check_graph(wanted: Any, training: bool, args: Sequence[Any]) -> None:
    if not isinstance(wanted, bool):
        raise TypeError(f"optimize: cuda_graph must be a bool, got {type(wanted).__name__}")
    device = next(a for a in args if isinstance(a, Tensor)).device
    if wanted and (training or device.type != "cuda"):
        raise ValueError(
            f'optimize: cuda_graph is for mode "infer" on a GPU, got mode {"train" if training else "infer"!r} on {device.type}'
        )


def _channels_last(memory_format: torch.memory_format | None, args: Sequence[Any]) -> bool:
    """Whether images are computed so: on CPUs and on GPUs with tensor cores convolutions are faster."""
    if memory_format not in (None, torch.channels_last, torch.contiguous_format):
        raise ValueError(
            f"optimize: memory_format must be channels_last, contiguous_format or None, got {memory_format}"
        )
    return memory_format is not torch.contiguous_format


def _better_left(model: nn.Module, args: Sequence[Any], asked: torch.memory_format | None, tune: bool) -> str:
    """Why training should not be in channels_last, if so."""
    if overruns_in_channels_last(model, args):
        why = "in channels_last PyTorch's gradient of a strided 1x1 convolution of fewer than 8 channels overruns its memory"
        if asked is not None:
            raise ValueError(f"optimize: {why}; leave memory_format out")
        return why
    slower = tune and asked is None and not trains_faster_in_channels_last(model, args)
    return "the network's own modules train faster so" if slower else ""


def _judge_whole(fast: nn.Module, model: nn.Module, args: Sequence[Any], options: Options, report: Report) -> None:
    """Compares and times the whole; undoes everything where it differs or gains nothing."""
    assert isinstance(fast, Optimized)
    training = options.training
    if options.verify and report.swapped:
        _verify_whole(fast, model, args, report)
    if options.tune and report.swapped:
        found = latencies(model, fast, args, training)
        report.before_ms, report.before_layout, report.after_ms = found.before, found.layout, found.after
        if found.slower:
            _undo(fast, report, f"the whole takes {found.after:.2f} ms instead of {found.before:.2f}")
    if training and report.swapped:
        report.before_bytes, report.after_bytes = kept_bytes(model, args), kept_bytes(fast, args)
    program = fast.program(training)
    if program is not None and not training:
        itemsize = next(a for a in args if isinstance(a, Tensor)).element_size()
        report.before_bytes = written_bytes((n for n in program.plain.nodes if n.op.startswith("call_")), itemsize)
        report.after_bytes = written_bytes(program.written(), itemsize)


def _verify_whole(fast: Optimized, model: nn.Module, args: Sequence[Any], report: Report) -> None:
    ours, own = (copy.deepcopy(m) if report.mode == "train" else m for m in (fast, model))
    try:
        with torch.no_grad(), without_dropout():
            results = [attempt(ours, *copied(args)), own(*copied(args))]
        report.error = distance(*results)
    except Differs as differs:
        _undo(fast, report, f"the whole {differs}")
        return
    dtype = next(a for a in args if isinstance(a, Tensor)).dtype
    if report.error <= tolerance(dtype):
        return
    # A hundred layers amplify the rounding of any implementation: is ours further from float64 than the network's own?
    exact, last = copy.deepcopy(model).double(), copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad(), without_dropout():
        truth = exact(*[a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args])
        results.append(last(*map(in_channels_last, args)))
    error, *others = (distance(_as_double(y), truth) for y in results)
    theirs = max(others)
    if error > 2 * theirs:
        _undo(fast, report, f"the whole is {error:.1e} from float64, the network's own modules {theirs:.1e}")
    else:
        report.notes.append(f"outputs are {error:.1e} from float64's, those of the network's own modules {theirs:.1e}")


def _as_double(y: Any) -> Any:
    return torch.utils._pytree.tree_map(
        lambda t: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t, y
    )


def _undo(fast: Optimized, report: Report, why: str) -> None:
    fast.drop_programs()
    report.entries = [
        Entry(e.name, e.kind, "undone", e.why or "the whole", e.error, e.before_ms, e.after_ms)
        if e.status == "swapped"
        else e
        for e in report.entries
    ]
    report.notes.append(f"everything is undone: {why}")


def _text(args: Sequence[Any]) -> str:
    def one(a: Any) -> str:
        return f"{list(a.shape)} {str(a.dtype).removeprefix('torch.')}" if isinstance(a, Tensor) else repr(a)

    return ", ".join(one(a) for a in args)


def _device_text(args: Sequence[Any]) -> str:
    device = next(a for a in args if isinstance(a, Tensor)).device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)
