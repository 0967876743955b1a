"""What an op is, and how a call finds its backend.

An ``Op`` brings together everything that belongs to one operator: schema, argument check, fp64-capable reference, fake
kernel, gradient, native (C++/CUDA) and Triton backends, autocast rule and FLOP formula.  Creating it registers
``torch.ops.cnnkernels.<name>``.  Files in ``cnnkernels/ops`` create the ops; nothing else does.

A call goes: check -> choose a backend -> run it.  ``torch.ops`` and the public functions share that path, so both raise
the same errors before any kernel runs.  The backend is the one asked for, else the one measured to be the fastest for
such arguments (``cnnkernels.choice``), else the device's default.  When nothing needs PyTorch's dispatcher (no gradient,
autocast, tracing, mode or tensor subclass), calling the ``Op`` on tensors of one device goes straight to its C++ or CUDA
kernel (csrc/torch/direct.h); what the kernel refuses takes the long way, which either explains the refusal or converts
the arguments first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cnnkernels import _autograd, _backend, _ext
from cnnkernels.choice.chooser import Chooser, chooser_for

LIBRARY = torch.library.Library("cnnkernels", "DEF")
REGISTRY: dict[str, Op] = {}

_DISPATCH_MODES = torch._C._len_torch_dispatch_stack
_FUNCTION_MODES = torch._C._len_torch_function_stack
_FUNCTORCH_LEVEL = torch._C._functorch.peek_interpreter_stack
_PROFILING = torch._C._autograd._profiler_enabled
_AUTOCAST = torch._C._is_any_autocast_enabled
_TRACING = torch._C._get_tracing_state
_FORWARD_AD = torch.autograd.forward_ad
_PARAMETER = torch.nn.Parameter
_CPU = torch.device("cpu")
_KERNELS = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}
"""Device type -> the backends with kernels for it, the default first."""


class CudaTarget:
    """Where the ``cuda`` backend's kernels are.  Tests point it at the host-compiled CUDA sources, on CPU tensors."""

    namespace = "cnnkernels_native"
    device_type = "cuda"


def _dispatcher_is_needed() -> bool:
    """Whether something wants to see every op: a mode, a transform, autocast, the profiler, a tracer."""
    return bool(
        _DISPATCH_MODES()
        or _FUNCTION_MODES()
        or _PROFILING()
        or _AUTOCAST()
        or _FUNCTORCH_LEVEL() is not None
        or _TRACING() is not None
    )


class Op:
    """One operator of the package.

    name, schema
        ``torch.ops.cnnkernels.<name>`` and its signature, "(Tensor x, str act) -> Tensor":
        positional arguments only, a tensor first.
    check
        Raises ValueError or TypeError for arguments that the op does not accept.
    reference
        The definition in plain PyTorch: any device, any float dtype.
    fake
        Output shapes, dtypes and strides, without data.
    native
        ``native(ops, *args)``: runs ``ops.<native op>``; serves the ``cpu`` and the ``cuda`` backend alike.
    native_ops
        Names of the native ops it calls, to know whether the build has them.
    direct
        ``direct(ops, *args)``: as ``native``, without converting anything: tensors are dense and parameters in the dtype
        the kernels take.  The kernels refuse whatever ``check`` refuses and whatever they cannot read, so plain calls
        try this first, without ``check``; that is worth 3 to 5 us a call.
    eager
        What stands for ``reference`` where speed decides: PyTorch's quickest form that is as exact as the kernels.
    triton
        Returns the function ``f(*args)`` that launches the Triton kernels (it imports them, so only when used).
    backward, save
        As ``torch.library.register_autograd`` takes them.  Without ``backward``, a differentiable op gets the gradient
        of its reference (that is how second derivatives work: the ``*_backward`` ops are differentiated so).
    autocast
        Names of the tensor arguments that autocast converts to its dtype; or one dtype for all of them.
    unsupported
        ``unsupported(backend, *args)``: why this backend does not cover these arguments, or None.
    """

    def __init__(
        self,
        name: str,
        schema: str,
        *,
        check: Callable[..., None],
        reference: Callable[..., Any],
        fake: Callable[..., Any],
        native: Callable[..., Any] | None = None,
        native_ops: Sequence[str] = (),
        direct: Callable[..., Any] | None = None,
        eager: Callable[..., Any] | None = None,
        triton: Callable[[], Callable[..., Any]] | None = None,
        backward: Callable[..., Any] | None = None,
        save: Callable[..., None] | None = None,
        differentiable: bool = True,
        autocast: Sequence[str] | torch.dtype = (),
        flops: Callable[..., int] | None = None,
        unsupported: Callable[..., str | None] | None = None,
        tags: Sequence[torch.Tag] = (),
    ) -> None:
        self.name = name
        self.check = check
        self.reference = reference
        self.native = native
        self.native_ops = tuple(native_ops)
        self.direct = direct
        self.eager = eager or reference
        self.triton = triton
        self.unsupported = unsupported
        self._available: dict[tuple[str, str], str | None] = {}
        self._cpu_ready: bool | None = None
        self._cpu_chooser: Chooser | None = None
        self._cuda_ready: dict[torch.device, bool] = {}
        self._choosers: dict[torch.device, Chooser | None] = {}

        LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag, *tags))
        self.overload = getattr(torch.ops.cnnkernels, name).default
        arguments = self.overload._schema.arguments
        self._defaults = tuple(a.default_value for a in arguments)
        self._names = tuple(a.name for a in arguments)
        self._tensors = tuple(i for i, a in enumerate(arguments) if "Tensor" in str(a.type))

        LIBRARY.impl(name, self._run, "CompositeExplicitAutograd")

        def checked_fake(*args: Any) -> Any:
            args = self._fill(args)
            check(*args)
            return fake(*args)

        torch.library.register_fake(f"cnnkernels::{name}", checked_fake, lib=LIBRARY)
        self._eager: type[torch.autograd.Function] | None = None
        self._eager_on_cpu: type[torch.autograd.Function] | None = None
        self._eager_on_cuda: type[torch.autograd.Function] | None = None
        if differentiable:
            save = save if backward and save else _autograd.save_inputs
            backward = backward or _autograd.reference_backward(reference)
            torch.library.register_autograd(f"cnnkernels::{name}", backward, setup_context=save, lib=LIBRARY)
            self._eager = _autograd.eager_function(name, self._run, save, backward)
            self._eager_on_cpu = _autograd.eager_function(name, self._run_on_cpu, save, backward)
            self._eager_on_cuda = _autograd.eager_function(name, self._run_on_cuda, save, backward)
        if autocast:
            for device_type in ("cpu", "cuda"):
                key = f"Autocast{device_type.upper()}"
                LIBRARY.impl(name, self._autocast_kernel(device_type, key, autocast), key)
        if flops is not None:
            _register_flops(self.overload, flops)
        REGISTRY[name] = self

    def __repr__(self) -> str:
        return f"Op({self.name})"

    # ---- calling -----------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any) -> Any:
        if torch.compiler.is_compiling() or _dispatcher_is_needed():
            return self.overload(*args)
        args = self._fill(args)
        needs_grad, on_cpu = False, True
        for i in self._tensors:
            a = args[i]
            if type(a) is Tensor or type(a) is _PARAMETER:
                needs_grad |= a.requires_grad
                on_cpu &= a.is_cpu
            elif isinstance(a, Tensor):
                return self.overload(*args)
        if _FORWARD_AD._current_level >= 0 and self._eager is not None:
            return self._eager.apply(*args)  # raises for an input with a tangent, which the dispatcher would drop
        run, function = self._run, self._eager
        if _backend.STATE.plain:
            if on_cpu:
                if self._cpu_is_ready() and (self._cpu_chooser is None or self._cpu_chooser(args) == "cpu"):
                    run, function = self._run_on_cpu, self._eager_on_cpu
            elif self.direct is not None and self._goes_straight_on_cuda(args):
                run, function = self._run_on_cuda, self._eager_on_cuda
        if needs_grad and function is not None and torch.is_grad_enabled():
            return function.apply(*args)
        return run(*args)

    def _fill(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The dispatcher leaves out trailing arguments that equal their default; put them back."""
        return args if len(args) == len(self._defaults) else args + self._defaults[len(args) :]

    def _run(self, *args: Any) -> Any:
        args = self._fill(args)
        self.check(*args)
        wanted = _backend.wanted()
        if wanted is not None:
            return self._run_on(wanted, args)
        chooser = self._chooser(args[0].device)
        if chooser is None:
            return self._run_on(self.default_backend(args[0].device.type), args)
        backend = chooser(args)
        return self._run_on(backend, args, chosen=backend != chooser.default)

    def _run_on_cpu(self, *args: Any) -> Any:
        """Plain CPU tensors, the default backend, nobody recording."""
        if self.direct is None:
            self.check(*args)
        else:
            try:
                return self.direct(_ext.direct_ops, *args)
            except Exception:
                # Refused: check explains it, or native converts first.  Anything else fails again there.
                self.check(*args)
        return self.native(_ext.native_ops, *args)  # type: ignore[misc]

    def _cpu_is_ready(self) -> bool:
        if self._cpu_ready is None:
            self._cpu_ready = self.unsupported is None and self.default_backend("cpu") == "cpu"
            self._cpu_chooser = self._chooser(_CPU)
        return self._cpu_ready

    def _goes_straight_on_cuda(self, args: tuple[Any, ...]) -> bool:
        """Whether all tensors are on one GPU, whose answer for them is the ``cuda`` backend."""
        device: torch.device = args[0].device
        if device.type != "cuda":
            return False
        for i in self._tensors:
            a = args[i]
            if a is not None and not (isinstance(a, Tensor) and a.device == device):
                return False
        ready = self._cuda_ready.get(device)
        if ready is None:
            there = _ext.direct_cuda_ops is not None and self.unsupported is None
            ready = self._cuda_ready[device] = there and self.default_backend("cuda") == "cuda"
        chooser = self._chooser(device) if ready else None
        return ready and (chooser is None or chooser(args) == "cuda")

    def _run_on_cuda(self, *args: Any) -> Any:
        """Plain tensors of one GPU, the ``cuda`` backend, nobody recording."""
        try:
            return self.direct(_ext.direct_cuda_ops, *args)  # type: ignore[misc]
        except Exception:
            return self._run(*args)  # converts, explains, or fails again

    def _run_on(self, backend: str, args: tuple[Any, ...], chosen: bool = False) -> Any:
        """chosen: the backend was measured to be the fastest, and ``reference`` then means PyTorch's quickest form."""
        if backend != "reference":
            reason = self.why_not(backend, args[0].device.type) or self._why_not_here(backend, args)
            if reason is None:
                _backend.ran(self.name, backend, chosen)
                return self._launch(backend, args)
            _backend.fell_back(self.name, backend, reason)
            return self.reference(*args)
        _backend.ran(self.name, "reference", chosen)
        return (self.eager if chosen else self.reference)(*args)

    def _launch(self, backend: str, args: tuple[Any, ...]) -> Any:
        if backend == "triton":
            assert self.triton is not None
            return self.triton()(*args)
        assert self.native is not None
        return self.native(_ext.native_ops if backend == "cpu" else getattr(torch.ops, CudaTarget.namespace), *args)

    # ---- choosing ----------------------------------------------------------------------------------------------------

    def default_backend(self, device_type: str) -> str:
        """What runs on this kind of device when nothing is asked for."""
        for backend in _KERNELS.get(device_type, ()):
            if self.why_not(backend, device_type) is None:
                return backend
        return "reference"

    def why_not(self, backend: str, device_type: str) -> str | None:
        """Why this backend cannot run this op on this kind of device at all; None if it can."""
        key = (backend, device_type)
        if key not in self._available:
            self._available[key] = self._find_why_not(backend, device_type)
        return self._available[key]

    def forget_availability(self) -> None:
        self._available.clear()
        self.forget_choices()

    def _chooser(self, device: torch.device) -> Chooser | None:
        try:
            return self._choosers[device]
        except KeyError:
            made = self._choosers[device] = chooser_for(self, device)
            return made

    def forget_choices(self) -> None:
        self._choosers.clear()
        self._cpu_ready = self._cpu_chooser = None
        self._cuda_ready.clear()

    def candidates(self, args: tuple[Any, ...]) -> dict[str, Callable[[], Any]]:
        """Every backend that can run these arguments, as a call without checks and records."""
        device_type = args[0].device.type
        calls: dict[str, Callable[[], Any]] = {}
        for backend in _KERNELS.get(device_type, ()):
            if (self.why_not(backend, device_type) or self._why_not_here(backend, args)) is None:
                straight = backend == "cpu"
                calls[backend] = partial(self._run_on_cpu, *args) if straight else partial(self._launch, backend, args)
        calls["reference"] = partial(self.eager, *args)
        return calls

    def _find_why_not(self, backend: str, device_type: str) -> str | None:
        if backend == "reference":
            return None
        if backend == "triton":
            from cnnkernels import _triton

            return "not written for Triton" if self.triton is None else _triton.why_not(device_type)
        needs = "cpu" if backend == "cpu" else CudaTarget.device_type
        if device_type != needs:
            return f"runs on {needs} tensors, got {device_type}"
        if _ext.module is None:
            return _ext.error
        namespace = CudaTarget.namespace if backend == "cuda" else "cnnkernels_native"
        missing = [n for n in self.native_ops if not _ext.has_kernel(n, device_type, namespace)]
        if missing and backend == "cuda" and not _ext.module.build_info()["cuda"]:
            return "the extension was built without CUDA (no nvcc then, or CNNKERNELS_CUDA=0): CNNKERNELS_CUDA=1 pip install -e ."
        return f"the extension has no {backend} kernel for {', '.join(missing)}" if missing else None

    def _why_not_here(self, backend: str, args: tuple[Any, ...]) -> str | None:
        if backend in ("cuda", "triton") and args[0].dtype is torch.float64:
            return "float64 is computed by cpu and reference only"
        return self.unsupported(backend, *args) if self.unsupported is not None else None

    # ---- autocast ----------------------------------------------------------------------------------------------------

    def _autocast_kernel(self, device_type: str, key: str, rule: Sequence[str] | torch.dtype) -> Callable[..., Any]:
        keyset = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))
        names = self._names if isinstance(rule, torch.dtype) else rule

        def kernel(*args: Any) -> Any:
            args = self._fill(args)
            dtype = rule if isinstance(rule, torch.dtype) else torch.get_autocast_dtype(device_type)

            def cast(name: str, a: Any) -> Any:
                eligible = (
                    isinstance(a, Tensor) and name in names and a.is_floating_point() and a.dtype is not torch.float64
                )
                return a.to(dtype) if eligible else a

            with torch._C._ExcludeDispatchKeyGuard(keyset):
                return self.overload(*(cast(n, a) for n, a in zip(self._names, args, strict=True)))

        return kernel


def _register_flops(overload: Any, flops: Callable[..., int]) -> None:
    from torch.utils.flop_counter import register_flop_formula

    register_flop_formula(overload.overloadpacket)(
        lambda *args, out_shape=None, **kwargs: flops(*args, out_shape=out_shape, **kwargs)
    )


def explain_rows() -> Mapping[str, Mapping[str, str]]:
    """op -> {"active on cpu": backend, "active on cuda": ..., backend: "" or why it cannot run}."""
    rows = {}
    for op in REGISTRY.values():
        row = {
            "cpu tensors": _backend.wanted() or op.default_backend("cpu"),
            "cuda tensors": _backend.wanted() or op.default_backend("cuda"),
        }
        row["why not cpu"] = op.why_not("cpu", "cpu") or ""
        row["why not cuda"] = op.why_not("cuda", "cuda") or ""
        row["why not triton"] = op.why_not("triton", "cuda") or ""
        rows[op.name] = row
    return rows
