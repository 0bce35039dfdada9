"""Requests to the HTTP door of a server, one connection each.

A query ends on the server when its connection is closed. So an exception here, such as `KeyboardInterrupt`, cancels it.
"""

from __future__ import annotations

import http.client
import json
import math
import selectors
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from .errors import CancelledError, Error, InternalError, InvalidError, LimitError, UnavailableError, error_of_kind

#: Bytes that are read at once.
_PART_BYTES = 1 << 20

#: Bytes of the body of an error that are read.
_ERROR_BYTES_MAX = 1 << 20

#: Seconds within which a connection is made, and a request that runs no query is answered.
_WAIT_SECONDS_MAX = 2_000_000.0
_CONNECT_SECONDS = 30

#: Seconds between two looks for signals.
_SIGNAL_SECONDS = 0.25

#: Seconds of silence after which the system checks if the server's machine is reachable.
_KEEPALIVE_SECONDS = 30


class Answer:
    """The rows of a query and the JSON of its headers."""

    def __init__(self, table: pa.Table, query_id: str, summary: dict[str, Any], warnings: list[str]):
        self.table = table
        self.query_id = query_id
        self.summary = summary
        self.warnings = warnings


class Door:
    """The HTTP door at `url`. Can be used by several threads at once."""

    def __init__(self, url: str, key: str, reason_of_end: Callable[[], str | None] = lambda: None):
        """Takes the address of a server and its key. `reason_of_end` returns why the server has ended, if that is known.

        Raises `InvalidError` if one of them cannot be used.
        """
        self.url = url
        parts = _parts(url)
        assert parts.hostname is not None
        self._host = parts.hostname
        self._port = parts.port
        self._prefix = parts.path.rstrip("/")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        if not isinstance(key, str) or not key or not all("!" <= character <= "~" for character in key):
            raise InvalidError("the key cannot be used; a key has printable ASCII characters without spaces")
        self._authorization = f"Bearer {key}"
        self._reason_of_end = reason_of_end
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_closed = False

    def check(self) -> None:
        """Checks that a server answers and accepts the key.

        Raises `UnavailableError` or `InvalidError`.
        """
        try:
            self._request("GET", "/metrics", None, _CONNECT_SECONDS, lambda response, part: None)
        except LimitError as error:
            raise UnavailableError(f"the server at {self.url} did not answer within {_CONNECT_SECONDS} s") from error

    def query(self, body: dict[str, Any], timeout: float | None) -> Answer:
        """Runs a query and returns its answer. `timeout` is in seconds, from now to the last row.

        Raises the error that the server reports, `UnavailableError` if it does not answer, `LimitError` after the timeout,
        and `CancelledError` if the door is closed meanwhile.
        """
        text = json.dumps({**body, "format": "arrow"}, allow_nan=False).encode()
        answer: Answer = self._request("POST", "/v1/query", text, timeout, self._answer)
        return answer

    def close(self) -> None:
        """Cancels the running queries. Later requests fail."""
        with self._lock:
            self._is_closed = True
            for open_socket in self._open:
                try:
                    # Wakes the thread that reads from it.
                    open_socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def _request(self, method: str, path: str, body: bytes | None, timeout: float | None, read: Callable[..., Any]) -> Any:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        connection = self._connection(min(_CONNECT_SECONDS, timeout or math.inf))
        headers = {"Authorization": self._authorization, "Content-Type": "application/json"}
        own_socket: socket.socket | None = None
        try:
            own_socket = self._connect(connection)
            _wait_until(own_socket, deadline)
            connection.request(method, self._prefix + path, body, headers)
            _wait_for_answer(own_socket, deadline)
            response = connection.getresponse()

            def part() -> bytes:
                _wait_until(own_socket, deadline)
                return response.read(_PART_BYTES)

            if response.status != 200:
                raise self._refused(response)
            return read(response, part)
        except socket.timeout as error:
            raise self._timed_out(timeout, deadline) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._lost(error) from error
        finally:
            with self._lock:
                if own_socket is not None:
                    self._open.discard(own_socket)
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        return http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._tls)

    def _connect(self, connection: http.client.HTTPConnection) -> socket.socket:
        connection.connect()
        own_socket = connection.sock
        own_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            own_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS)
            own_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_SECONDS // 3)
        with self._lock:
            if self._is_closed:
                raise CancelledError("the connection was closed")
            self._open.add(own_socket)
        return own_socket

    def _answer(self, response: http.client.HTTPResponse, part: Callable[[], bytes]) -> Answer:
        kind = response.headers.get("content-type", "")
        if not kind.startswith("application/vnd.apache.arrow"):
            raise self._foreign(response.status, f"with `{kind}` instead of rows")
        sink = pa.BufferOutputStream()
        while True:
            rows = part()
            if not rows:
                break
            sink.write(rows)
        # Of a body with a length, `read` returns what there is.
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        try:
            with pa.ipc.open_file(sink.getvalue()) as reader:
                table = reader.read_all()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InternalError(f"the rows cannot be read: {error}") from error
        headers = {name: _json(response.headers.get(name)) for name in ("buzz-query-id", "buzz-summary", "buzz-warnings")}
        return Answer(table, headers["buzz-query-id"] or "", headers["buzz-summary"] or {}, headers["buzz-warnings"] or [])

    def _refused(self, response: http.client.HTTPResponse) -> Error:
        """Returns the error of a response that has no rows."""
        error = _json(response.read(_ERROR_BYTES_MAX))
        error = error.get("error") if isinstance(error, dict) else None
        if not isinstance(error, dict) or not isinstance(error.get("message"), str):
            return self._foreign(response.status, f"with status {response.status}")
        if response.status == 401:
            return InvalidError(f"the server at {self.url} does not accept the key; pass its key as `key`, or set BUZZ_KEY")
        return error_of_kind(error.get("kind"), error["message"])

    def _foreign(self, status: int, how: str) -> Error:
        message = f"{self.url} answered {how}; pass the address that `buzz serve` prints after `HTTP:` as `url`"
        return UnavailableError(message) if status >= 500 else InvalidError(message)

    def _timed_out(self, timeout: float | None, deadline: float) -> Error:
        if timeout is not None and time.monotonic() >= deadline:
            return LimitError(f"the query took longer than the timeout of {timeout:g} s and was cancelled; raise `timeout`")
        return UnavailableError(f"the server at {self.url} did not accept a connection within {_CONNECT_SECONDS} s")

    def _lost(self, error: Exception) -> Error:
        if self._is_closed:
            return CancelledError("the query was cancelled: its connection was closed")
        reason = self._reason_of_end()
        if reason is not None:
            return UnavailableError(f"{reason}; connect again")
        if isinstance(error, ssl.SSLCertVerificationError):
            return InvalidError(
                f"the certificate of {self.url} is not trusted: {error.verify_message}; if you trust it, name its file in "
                "SSL_CERT_FILE"
            )
        if isinstance(error, http.client.IncompleteRead):
            return UnavailableError(f"the server at {self.url} closed the connection before the last row; try again")
        return UnavailableError(f"the server at {self.url} does not answer: {_text(error)}; check that it runs")


def _parts(url: str) -> urllib.parse.SplitResult:
    remedy = "write http://HOST:PORT, as `buzz serve` prints it after `HTTP:`"
    if not isinstance(url, str):
        raise InvalidError(f"`url` is a `{type(url).__name__}`; {remedy}")
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidError(f"url `{url}` cannot be used: {error}; {remedy}") from error
    if parts.username is not None or parts.password is not None:
        raise InvalidError(f"the url has a user or a password; pass the key as `key`, and {remedy}")
    plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not plain or parts.query or parts.fragment:
        raise InvalidError(f"url {url!r} cannot be used; {remedy}")
    return parts


def _wait_until(own_socket: socket.socket, deadline: float) -> None:
    """Bounds the next wait for the server. Raises the error of a timeout if no time is left."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout("timed out")
    # With a timeout, Python waits with `poll`, which a signal always ends. Without one it waits with `recv`, which goes on after
    # Ctrl-C where a library, such as polars, has set its handler with SA_RESTART.
    own_socket.settimeout(min(left, _WAIT_SECONDS_MAX))


def _wait_for_answer(own_socket: socket.socket, deadline: float) -> None:
    """Waits until the server sends something or closes the connection.

    A signal that the system delivers to another thread does not end a read, so Ctrl-C would wait for the answer. Python handles
    it between two waits.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(own_socket, selectors.EVENT_READ)
        while not selector.select(min(_SIGNAL_SECONDS, max(deadline - time.monotonic(), 0))):
            if time.monotonic() >= deadline:
                raise socket.timeout("timed out")
    _wait_until(own_socket, deadline)


def _json(text: str | bytes | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
