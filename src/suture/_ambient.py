"""What torch is set to where a function is called: the same at every point, wherever that is."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator

import torch

from suture._torch import default_device, is_any_autocast_enabled


class _DefaultDtype:
    """torch's default dtype, which belongs to the whole process.

    Threads that need the same one share it, and the last of them makes it what it was: none may
    take it from the others. Who needs another one waits.
    """

    def __init__(self) -> None:
        """Nobody needs anything yet."""
        self._changed, self._users = threading.Condition(), 0
        self._original: torch.dtype | None = None
        self._thread = threading.local()

    @property
    def is_replaced(self) -> bool:
        """Whether somebody needs another one than the user has set."""
        return self._original is not None

    @contextlib.contextmanager
    def held(self, dtype: torch.dtype) -> Iterator[None]:
        """Make it `dtype`, and keep it so."""
        if getattr(self._thread, "holds", False):  # a black box in a black box
            before = torch.get_default_dtype()
            torch.set_default_dtype(dtype)
            try:
                yield
            finally:
                torch.set_default_dtype(before)
            return
        self._take(dtype)
        try:
            yield
        finally:
            self._leave()

    def _take(self, dtype: torch.dtype) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._users or torch.get_default_dtype() == dtype)
            if torch.get_default_dtype() != dtype:
                self._original = torch.get_default_dtype()
                torch.set_default_dtype(dtype)
            self._users += 1
            self._thread.holds = True

    def _leave(self) -> None:
        with self._changed:
            self._users -= 1
            self._thread.holds = False
            if not self._users and self._original is not None:
                torch.set_default_dtype(self._original)
                self._original = None
            self._changed.notify_all()


_default_dtype = _DefaultDtype()


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
            stack.enter_context(_default_dtype.held(self.dtype))
            stack.enter_context(self.device)
            yield

    def is_current(self) -> bool:
        """Whether `restored` would change nothing."""
        return (
            not torch.is_grad_enabled()
            and torch.get_default_dtype() == self.dtype
            and not _default_dtype.is_replaced
            and default_device() == self.device
            and not is_any_autocast_enabled()
        )
