"""What torch is set to where a function is called: the same at every point, wherever that is."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator

import torch

from suture._torch import default_device, is_any_autocast_enabled

_default_dtype_lock = threading.RLock()


@dataclasses.dataclass(frozen=True, slots=True)
class Ambient:
    """What torch was set to at the forward.

    Attributes:
        dtype: torch's default dtype.
        device: torch's default device.
        kinds: the types of device on which autocast may be on.
    """

    dtype: torch.dtype
    device: torch.device
    kinds: frozenset[str]

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Make torch what it was at the forward: no grad, no autocast, the same defaults.

        Autocast is on in the forward of a Function and off in its backward, and the default
        dtype and device may have changed, or be those of another process: node 0 and the other
        nodes would differ.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            for kind in self.kinds:
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            if torch.get_default_dtype() != self.dtype:
                # It belongs to the whole process: two threads must not save each other's.
                stack.enter_context(_default_dtype_lock)
                stack.callback(torch.set_default_dtype, torch.get_default_dtype())
                torch.set_default_dtype(self.dtype)
            stack.enter_context(self.device)
            yield

    def is_current(self) -> bool:
        """Whether `restored` would change nothing."""
        return (
            not torch.is_grad_enabled()
            and torch.get_default_dtype() == self.dtype
            and default_device() == self.device
            and not is_any_autocast_enabled()
        )
