"""Questions and answers in JSON over HTTP: a deadline, a limit, no redirects, only numbers.

No proxies either: http.client does not look for any.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import threading
import time
import urllib.parse
from typing import Any, NoReturn, TypeAlias, final

from suture.errors import (
    BadResult,
    EvaluationError,
    MethodError,
    SutureError,
    TimedOut,
    shown,
)
from suture.functions._channel import Channel

# Bytes that are read at once: the buffers of a socket hold about as much.
_PIECE = 65536

# "Later" in the words of HTTP: 408 Request Timeout (RFC 9110), 425 Too Early (RFC 8470),
# 429 Too Many Requests (RFC 6585). All other 4xx say that the request itself is wrong.
_LATER = (408, 425, 429)

# What Python and NumPy print for numbers that JSON does not have; `umbridge` sends them so.
_NOT_FINITE = re.compile(r"[-+]?(nan|inf)", re.IGNORECASE)

_Kept: TypeAlias = tuple[int | None, http.client.HTTPConnection | None, Channel | None]
"""The process that connected, the connection, and what is below it."""


@final
class Server:
    """Whom to ask. Each thread has a connection of its own, which is kept open.

    Args:
        url: where the server is.
        name: what messages call the model.
        timeout: seconds for one answer: to look the host up, to connect, to send, and to read all
            of it.
        max_bytes: no answer may be longer.

    Raises:
        MethodError: if an argument is not lawful.
    """

    def __init__(self, url: str, name: str, timeout: float, max_bytes: int) -> None:
        """Take the address apart; nothing is sent yet."""
        self.url, self.name = url, name
        self.timeout = _positive("timeout", timeout, "timeout=60.0")
        self.max_bytes = _positive("max_bytes", max_bytes, "max_bytes=2**26")
        self._secure, self._host, self._port, self._prefix = _parts(url)
        self._thread = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the connections out: a copy connects anew."""
        return {key: value for key, value in vars(self).items() if key != "_thread"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._thread = threading.local()

    def ask(self, route: str, question: object = None) -> Any:
        """Return the answer to a question, all numbers as finite floats.

        Args:
            route: of the question, for example "Evaluate".
            question: is posted as JSON; None to get.

        Raises:
            TimedOut: if all of the answer is not there in time.
            EvaluationError: if there is no connection, it breaks, or the server says that it
                failed (5xx) or is busy (408, 425, 429): another attempt may be worth it.
            BadResult: if the server redirects or refuses (3xx, 4xx), or answers with what is no
                JSON, too long or not finite: the same question would have the same answer.
        """
        body = None if question is None else json.dumps(question, allow_nan=False).encode()
        try:
            response, content = self._exchange(route, body, time.monotonic() + self.timeout)
        except TimeoutError as error:
            self.close()
            raise self._late(route) from error
        except SutureError:
            self.close()
            raise
        # A chunk of -5 bytes, for example, is a ValueError.
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise self._broken(route, error) from error
        except BaseException:
            self.close()
            raise
        self._check_status(route, response, content)
        return self._numbers(route, content)

    def _exchange(
        self, route: str, body: bytes | None, until: float
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = self._connected(until)
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request("GET" if body is None else "POST", self._prefix + route, body, headers)
        response = connection.getresponse()
        content = bytearray()
        while len(content) <= self.max_bytes and (piece := response.read(_PIECE)):
            content += piece
        if len(content) > self.max_bytes:
            raise BadResult(
                f"The server of `{self.name}` answered {route} with more than {self.max_bytes} "
                "bytes.",
                "An answer is read into memory, so its length has a limit.",
                "Let the server return less, or allow more: `UMBridge(…, max_bytes=2**30)`.",
            )
        # Bytes that were promised, or any at all where the end of the connection is that of the
        # answer. What has come tells `IncompleteRead` nothing that a person would read.
        is_marked = response.chunked or response.length is not None
        if response.length or not (is_marked or content):
            raise http.client.IncompleteRead(b"", response.length)
        return response, bytes(content)

    def _connected(self, until: float) -> http.client.HTTPConnection:
        """Return the connection of this thread: that of the last answer, or a new one."""
        process, connection, channel = self._kept()
        # One that was inherited by a fork belongs to the parent.
        if connection and channel and process == os.getpid() and connection.sock:
            if channel.is_idle():
                channel.until = until
                return connection
            connection.close()
        try:
            channel = Channel(self._host, self._port, self._secure, until)
        except TimeoutError:
            raise
        except ssl.SSLCertVerificationError as error:
            raise MethodError(
                f"The certificate of {self.url} is not valid: {error.verify_message}.",
                "Certificates are always checked.",
                "Use the name that the certificate is for; for an authority of your own, set the "
                "variable `SSL_CERT_FILE` to its certificate.",
            ) from error
        except OSError as error:
            raise EvaluationError(
                f"There is no connection to {self.url}: {error.strerror or error}.",
                "A server has to run there, all the time.",
                "Start it; if it is only away for moments, use `differentiable(…, retries=2)`.",
            ) from error
        connection = http.client.HTTPConnection(self._host, self._port)
        connection.auto_open = 0  # it would connect without a deadline
        connection.sock = channel  # it has all that http.client uses of a socket
        self._thread.kept = (os.getpid(), connection, channel)
        return connection

    def _kept(self) -> _Kept:
        kept: _Kept = getattr(self._thread, "kept", (None, None, None))
        return kept

    def close(self) -> None:
        """Close the connection of this thread; the next question opens another."""
        process, connection, _ = self._kept()
        if connection is not None and process == os.getpid():
            connection.close()
        self._thread.kept = (None, None, None)

    def _late(self, route: str) -> TimedOut:
        return TimedOut(
            f"The server of `{self.name}` had not answered {route} after {self.timeout:g} s.",
            "This is the time for all of a request: to connect, to send, and to read the answer.",
            "Allow more, `UMBridge(…, timeout=600)`, or try again, `differentiable(…, retries=2)`.",
        )

    def _broken(self, route: str, error: Exception) -> EvaluationError:
        return EvaluationError(
            f"The server of `{self.name}` broke off its answer to {route} "
            f"({type(error).__name__}).",
            "It died, was restarted, or speaks something else than HTTP.",
            "Look into its log; to try again, use `differentiable(…, retries=2)`.",
        )

    def _check_status(self, route: str, response: http.client.HTTPResponse, content: bytes) -> None:
        """Raise for every status but success."""
        status, said = response.status, _said(content)
        if 200 <= status < 300:
            return
        # In the words of the standard: those of the server may be anything.
        words = f"{status} {http.client.responses.get(status, '')}".rstrip()
        answered = f"The server of `{self.name}` answered {route} with {words}"
        if status >= 500 or status in _LATER:
            raise EvaluationError(
                f"{answered}{said}.",
                "It says that it failed, at this point or at this moment.",
                "Look into its log; to try again, use `differentiable(…, retries=2)`.",
            )
        if status < 400:
            raise BadResult(
                f"{answered}, and leads to {shown(response.headers.get('Location', ''))}.",
                "Redirects are not followed: they could lead anywhere.",
                'Give the address of the server itself: `UMBridge("http://…", …)`.',
            )
        raise BadResult(
            f"{answered}{said}.",
            "It refuses the request, and would refuse it again.",
            f"Compare address, `config` and arguments with what `{self.name}` expects.",
        )

    def _numbers(self, route: str, content: bytes) -> Any:
        """Return what JSON says, with all numbers as finite floats."""
        try:
            # Whole numbers too: one with 400 digits is infinite, and not an error of its own.
            text = content.decode()
            return json.loads(
                text, parse_float=_finite, parse_int=_finite, parse_constant=_not_finite
            )
        except OverflowError:
            raise self._infinite(route) from None
        except (ValueError, RecursionError) as error:
            place = error.pos if isinstance(error, json.JSONDecodeError) else None
            if place is not None and _NOT_FINITE.match(text, place):
                raise self._infinite(route) from None
            raise BadResult(
                f"The server of `{self.name}` answered {route} with what is no JSON: "
                f"{shown(content[:80].decode(errors='replace'))}.",
                "The protocol UM-Bridge 1.0 speaks JSON.",
                f'Look at the address: is it that of `{self.name}`, as in `"http://host:4242"`?',
            ) from None

    def _infinite(self, route: str) -> BadResult:
        return BadResult(
            f"The server of `{self.name}` answered {route} with nan or inf.",
            "Every number must be finite.",
            "Restrict the inputs with `torch.clamp`, give `bounds=` to `differentiable`, or let "
            "the server return a finite number there.",
        )


def _positive(keyword: str, value: Any, fix: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise MethodError(
            f"`UMBridge({keyword}={shown(value)})` is not possible.",
            "A limit is a positive number.",
            f"Write `{fix}`.",
        )
    return value


def _parts(url: object) -> tuple[bool, str, int, str]:
    """Return whether it is secure, host, port, and the path before the routes."""
    try:
        parts = urllib.parse.urlsplit(url if isinstance(url, str) else "")
        host, port = parts.hostname, parts.port
        printable = isinstance(url, str) and url.isascii() and url.isprintable() and " " not in url
        plain = printable and not (parts.query or parts.fragment or "@" in parts.netloc)
    except ValueError:
        host, port, plain = None, None, False
    if not host or not plain or parts.scheme not in ("http", "https"):
        # What stands before @ is a password.
        seen = url.rpartition("@")[2] if isinstance(url, str) else url
        raise MethodError(
            f"`UMBridge({shown(seen)}, …)` has no address.",
            "It is http:// or https://, a host, and perhaps a port and a path; no password and no "
            "query.",
            'Write, for example, `UMBridge("http://localhost:4242", "forward")`.',
        )
    secure = parts.scheme == "https"
    return secure, host, port or (443 if secure else 80), parts.path.rstrip("/") + "/"


def _said(content: bytes) -> str:
    """Return what a server wrote about its error: its message, if it follows the protocol."""
    try:
        answer = json.loads(content)
        said = answer["error"]["message"]
    except (ValueError, RecursionError, KeyError, TypeError, IndexError):
        return ""
    return f": {shown(said)}" if isinstance(said, str) else ""


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise OverflowError
    return number


def _not_finite(text: str) -> NoReturn:
    raise OverflowError(text)
