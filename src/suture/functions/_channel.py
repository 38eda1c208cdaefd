"""A connection on which everything ends at one deadline, however the other side drips."""

from __future__ import annotations

import io
import queue
import socket
import ssl
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


@final
class Channel:
    """What `http.client` needs of a socket, with one deadline for all that it does.

    A time-out of Python is for one read: a server that sends a byte each second never meets it.

    Args:
        host: a name or an address.
        port: of TCP.
        secure: whether to speak TLS; certificates and names are always checked.
        until: the deadline, on `time.monotonic`.

    Raises:
        TimeoutError: at the deadline; so do all methods.
        OSError: if nobody answers at any of the addresses.
    """

    def __init__(self, host: str, port: int, secure: bool, until: float) -> None:
        """Connect."""
        self.until = until
        error: OSError | None = None
        for family, kind, protocol, _, address in _addresses(host, port, until):
            self._socket = socket.socket(family, kind, protocol)
            try:
                self._wait()
                self._socket.connect(address)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if secure:
                    context = ssl.create_default_context()
                    self._wait()
                    self._socket = context.wrap_socket(self._socket, server_hostname=host)
                # Who has let go of it need not close it.
                weakref.finalize(self, self._socket.close)
                return
            except OSError as raised:
                self._socket.close()
                error = raised
                if isinstance(raised, TimeoutError | ssl.SSLError):
                    break  # another address of the same server would do no better
            except BaseException:
                self._socket.close()
                raise
        raise error or OSError("the name has no address")

    def _wait(self) -> None:
        """Let the next wait end at the deadline."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def sendall(self, data: bytes) -> None:
        """Send all; TLS would begin its time anew with each piece."""
        rest = memoryview(data)
        while rest:
            self._wait()
            rest = rest[self._socket.send(rest) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return the stream to read from."""
        assert mode == "rb"  # all that http.client asks for
        return io.BufferedReader(_Reader(self, self._socket))

    def is_idle(self) -> bool:
        """Whether it can be used again: the other side neither closed it nor sends unasked."""
        self._socket.settimeout(0)
        try:
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close it; a stream that is being read stays open until it is closed as well."""
        self._socket.close()


def _addresses(host: str, port: int, until: float) -> list[Any]:
    """Look a host up, in a thread: the system lets nobody else say how long that may take.

    A name server that is silent costs 10 s or more, by the defaults of resolv.conf(5).
    """

    def look_up(flags: int = 0) -> list[Any]:
        try:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
        except UnicodeError as error:
            raise OSError("this is no name of a host") from error

    with suppress(socket.gaierror):
        return look_up(socket.AI_NUMERICHOST)  # an address needs no thread
    found: queue.SimpleQueue[list[Any] | OSError] = queue.SimpleQueue()

    def answer() -> None:
        try:
            found.put(look_up())
        except OSError as error:
            found.put(error)

    threading.Thread(target=answer, daemon=True).start()
    try:
        answered = found.get(timeout=max(until - time.monotonic(), 0))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answered, OSError):
        raise answered
    return answered


class _Reader(io.RawIOBase):
    """Reads up to the deadline of its channel."""

    def __init__(self, channel: Channel, connected: socket.socket) -> None:
        self._channel = channel
        self._raw = connected.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        self._channel._wait()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
