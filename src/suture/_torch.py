"""What torch does not tell by public means: its private names, in one place.

Each was checked on torch 2.4 to 2.15 unless a line says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import Function, forward_ad

CPU = torch.device("cpu")

_TRACERS = ("ProxyTorchDispatchMode", "FakeTensorMode", "FunctionalTensorMode")


def default_device() -> torch.device:
    """Return torch's default device.

    `torch.get_default_device` takes 5 µs to say "cpu", and inside a transform of torch.func it
    fails for any other device.
    """
    if not torch._C._len_torch_function_stack():
        return CPU
    return torch.empty(0).device


# Whether autocast is on for any device.
is_any_autocast_enabled: Callable[[], bool] = torch._C._is_any_autocast_enabled


def is_differentiating() -> bool:
    """Whether anything that is computed now may be differentiated."""
    return (
        torch.is_grad_enabled()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def is_differentiated(tensor: Tensor) -> bool:
    """Whether a tensor is what somebody differentiates by, in reverse or in forward mode."""
    if tensor.requires_grad or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return True
    if forward_ad._current_level < 0:
        return False
    unpacked: Any = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    return unpacked.tangent is not None


# Whether `is_grads_batched=True` made a tensor: it never reaches `Function.vmap`.
is_legacy_batched: Callable[[Tensor], bool] = getattr(
    torch._C._functorch, "is_legacy_batchedtensor", lambda _: False
)


def apply(function: type[Function], *args: Any) -> Any:
    """Apply a Function without keyword arguments and defaults.

    Outside of torch.func's transforms this skips that `Function.apply` binds the arguments to the
    signature of `forward`, which would take longer than all else that it does.
    """
    if torch._C._are_functorch_transforms_active():
        return function.apply(*args)  # type: ignore[no-untyped-call]
    return super(Function, function).apply(*unwrap_dead_wrappers(args))  # type: ignore[misc]


def tracer() -> str | None:
    """Return the name of what traces a graph now, instead of computing."""
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace"
    if not torch._C._len_torch_dispatch_stack():
        return None
    modes = torch.utils._python_dispatch._get_current_dispatch_mode_stack()
    return next((type(m).__name__ for m in modes if type(m).__name__ in _TRACERS), None)


def engine_skips(node: Any) -> bool:
    """Whether the running backward does not need what a node of the graph is given.

    `needs_input_grad` is True also for inputs that `backward(inputs=…)` and `autograd.grad` leave
    out (pytorch#174017); the engine knows. It raises for leaves that `autograd.grad` asks for.
    """
    if node is None:
        return False
    try:
        return not torch._C._will_engine_execute_node(node)
    except RuntimeError:
        return False
