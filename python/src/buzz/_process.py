"""A `buzz serve` that belongs to this process: started on free ports of this machine, and stopped with its owner."""

from __future__ import annotations

import collections
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

from .errors import Error, InvalidError, UnavailableError

#: Seconds within which the server must listen. It opens each table once before.
_START_SECONDS = 300

#: Seconds within which a stopped server ends: those of `_watch.py`, and a margin.
_STOP_SECONDS = 20

#: Seconds within which a server ends that has closed its messages.
_ENDED_SECONDS = 5

#: Lines of the server's messages that are kept for an error.
_LINES_MAX = 200


def find_program(program: str | os.PathLike[str] | None) -> str:
    """Returns the path of the command: `program`, else `$BUZZ`, else `buzz` on the PATH.

    Raises `InvalidError` if it does not exist or is not executable.
    """
    for name, source in ((program, "program"), (os.environ.get("BUZZ"), "$BUZZ")):
        if name:
            found = shutil.which(os.fspath(name))
            if found is None:
                raise InvalidError(f"`{os.fspath(name)}` ({source}) does not exist or is not executable")
            return os.path.abspath(found)
    found = shutil.which("buzz")
    if found is None:
        raise InvalidError(
            "the command `buzz` was not found; build it with `make build`, and pass its path as `program`, set BUZZ, or add "
            "its folder ($CARGO_TARGET_DIR/debug) to the PATH; or pass `url` of a running server"
        )
    return os.path.abspath(found)


class Server:
    """A running server. It ends with `stop`, when this object is collected, and when this process ends for any reason."""

    def __init__(self, program: str, arguments: list[str], warn: Callable[[str], None], file: str = ""):
        """Starts the server and waits until it listens. Calls `warn` with each warning about a table. Removes `file` when the
        server has ended.

        Raises `InvalidError` with the server's message if it does not start, `UnavailableError` if it does not listen within
        300 seconds.
        """
        if not sys.executable:
            raise InvalidError("sys.executable is not set, so no server can be watched; start one and pass its `url`")
        self.key = secrets.token_urlsafe(32)
        self._lines: collections.deque[str] = collections.deque(maxlen=_LINES_MAX)
        self._settled = threading.Event()
        self.url = ""
        watch = str(Path(__file__).with_name("_watch.py"))
        command = [program, "serve", "--listen=127.0.0.1:0", "--postgres=127.0.0.1:0", *arguments]
        # In a session of its own: Ctrl-C in a terminal cancels a query, and must not stop the server.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", watch, file, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "BUZZ_KEY": self.key, "BUZZ_HISTORY": ""},
            start_new_session=True,
        )
        self._stop = weakref.finalize(self, _stop, self._process, os.getpid())
        # The thread must not keep this object from being collected.
        reader = threading.Thread(target=_read, args=(self._process, self._lines, weakref.ref(self)), daemon=True)
        reader.start()
        try:
            self._wait_until_listening(program, warn)
        except BaseException:
            self.stop()
            raise

    def _wait_until_listening(self, program: str, warn: Callable[[str], None]) -> None:
        if not self._settled.wait(_START_SECONDS):
            raise UnavailableError(f"`{program} serve` did not listen within {_START_SECONDS} s{self._last_lines()}")
        if not self.url:
            raise self._not_started(program)
        for line in list(self._lines):
            if line.startswith("warning: "):
                warn(line[len("warning: ") :])

    def _not_started(self, program: str) -> Error:
        try:
            self._process.wait(_ENDED_SECONDS)
        except subprocess.TimeoutExpired:
            return InvalidError(f"`{program} serve` did not print its address; check that `{program}` is the command of Buzz")
        text = "\n".join(self._lines)
        _, found, message = text.partition("error: ")
        # The help of the command line follows after an empty line.
        message = message.partition("\n\n")[0].strip() if found else text.strip()
        return InvalidError(message or f"`{program} serve` ended with exit code {self._process.returncode}")

    def _last_lines(self) -> str:
        return "".join(f"\n{line}" for line in list(self._lines)[-5:])

    def has_ended(self) -> str | None:
        """Returns the reason if the server has ended by itself, otherwise None."""
        if self._process.poll() is None:
            return None
        return f"the server that this connection started has ended with exit code {self._process.returncode}"

    def stop(self) -> None:
        """Stops the server and waits for its end. Does nothing if it has ended."""
        self._stop()


def _stop(process: subprocess.Popen[bytes], owner: int) -> None:
    """Stops the server and waits for its end."""
    if process.stdin is not None:
        process.stdin.close()
    # A forked process also runs this at its end, and must not stop the server of its parent.
    if os.getpid() != owner:
        return
    # A forked process may hold the pipe open, so its end is not enough.
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read(process: subprocess.Popen[bytes], lines: collections.deque[str], server: weakref.ref[Server]) -> None:
    """Reads the server's messages to their end, so that it can always write, and notes its address."""
    assert process.stderr is not None
    with process.stderr as messages:
        for bytes_of_line in messages:
            line = bytes_of_line.decode(errors="replace").rstrip()
            lines.append(line)
            name, _, address = line.partition(":")
            if name == "HTTP" and address.strip().startswith("http"):
                _settle(server, address.strip())
    _settle(server, None)


def _settle(server: weakref.ref[Server], url: str | None) -> None:
    found = server()
    if found is not None:
        if url is not None and not found.url:
            found.url = url
        found._settled.set()
