"""Connections: to a server of their own, or to one that already runs."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Union

from ._door import Door
from ._parameters import parameters
from ._process import Server, find_program
from .errors import BuzzWarning, InvalidError
from .result import Result, Summary

#: The place of a table, or its catalog entry.
Table = Union[str, "os.PathLike[str]", Mapping[str, Any]]

Options = Mapping[str, Union[str, int, float, bool]]


def connect(
    tables: Mapping[str, Table] | str | os.PathLike[str] | None = None,
    *,
    stack: str | None = None,
    url: str | None = None,
    key: str | None = None,
    options: Options | None = None,
    program: str | os.PathLike[str] | None = None,
) -> Connection:
    """Returns a connection. Without `url` it starts the command `buzz serve` on free ports of this machine, and stops it.

    - `tables`: a dict from names to places, such as `{"trips": "data/nyc-taxi-daily"}`, or to catalog entries, such as
      `{"rides": {"uri": "rides/*.csv", "delimiter": ";"}}`; or the path of a file of tables. Without it, `buzz.json` in the
      working directory is read if it exists. Relative places are below the working directory.
    - `stack`: name of the stack on AWS that runs the queries. Without it they run on this machine.
    - `url`, `key`: address and key of a server that already runs. Without `key`, `$BUZZ_KEY` is used.
    - `options`: options of all queries, such as `{"memory_bytes": "2GiB"}`.
    - `program`: path of the command. Without it, `$BUZZ` is used, and then `buzz` on the PATH.

    A table that cannot be opened is a `BuzzWarning`.

    Raises `InvalidError` if an argument is wrong, the key is not accepted or the server does not start, and
    `UnavailableError` if the server at `url` does not answer.
    """
    checked = _options("options", options)
    if url is not None:
        given = {"tables": tables, "stack": stack, "program": program}
        wrong = [name for name, value in given.items() if value is not None]
        if wrong:
            raise InvalidError(f"`{wrong[0]}` belongs to the server at `url`; pass it to `buzz serve`, or leave `url` out")
        key = os.environ.get("BUZZ_KEY") if key is None else key
        if key is None:
            raise InvalidError("`url` requires the server's key; pass it as `key`, or set BUZZ_KEY")
        door = Door(url, key)
        door.check()
        return Connection(door, None, checked)
    if key is not None:
        raise InvalidError("`key` belongs to the server at `url`; pass `url` too, or leave `key` out")
    server = _server(find_program(program), tables, stack, checked)
    return Connection(Door(server.url, server.key, server.has_ended), server, {})


def _server(program: str, tables: Any, stack: str | None, options: dict[str, Any]) -> Server:
    arguments = [f"--set={name}={_option_text(value)}" for name, value in options.items()]
    if stack is not None:
        if not isinstance(stack, str) or not stack:
            raise InvalidError(f"`stack` is {stack!r}; pass the name of a stack, such as \"dev\"")
        arguments.append(f"--stack={stack}")
    # The program's parser would take another character of an argument for its end.
    if any("\0" in argument for argument in arguments):
        raise InvalidError("an argument has the character 0; remove it")
    if not isinstance(tables, Mapping):
        if tables is not None:
            arguments.append(f"--tables={_path('tables', tables)}")
        return Server(program, arguments, _warn)
    # In a file, names and places are data: no character of them can be taken for another argument.
    entries = [_entry(name, table) for name, table in tables.items()]
    with tempfile.NamedTemporaryFile("w", prefix="buzz-", suffix=".json", encoding="utf-8", delete=False) as file:
        json.dump({"catalogs": entries}, file)
    # The server reads it again when a name is needed.
    return Server(program, [*arguments, f"--tables={file.name}"], _warn, file.name)


def _entry(name: Any, table: Any) -> dict[str, Any]:
    if not isinstance(name, str) or not name:
        raise InvalidError(f"the name of a table is {name!r}; pass a text")
    if isinstance(table, Mapping):
        entry = {**table, "name": name}
        if isinstance(entry.get("uri"), str):
            entry["uri"] = _absolute(entry["uri"])
        try:
            json.dumps(entry, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidError(f"the entry of table `{name}` cannot be written as JSON: {error}") from error
        return entry
    return {"name": name, "uri": _absolute(_path(f"table `{name}`", table))}


def _absolute(place: str) -> str:
    """Returns a place below the working directory as an absolute one: in a file of tables, it would be below the file's folder."""
    return place if not place or "://" in place else os.path.join(os.getcwd(), place)


def _path(what: str, path: Any) -> str:
    try:
        text = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text:
        raise InvalidError(f"{what} is {path!r}; pass a path or an address, such as \"data/trips\" or \"s3://bucket/trips\"")
    if "\0" in text:
        raise InvalidError(f"{what} has the character 0; remove it")
    return text


def _options(what: str, options: Any) -> dict[str, Any]:
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise InvalidError(f"`{what}` is a `{type(options).__name__}`; pass a dict such as {{\"tasks\": 4}}")
    for name, value in options.items():
        finite = not isinstance(value, float) or math.isfinite(value)
        if not isinstance(name, str) or not isinstance(value, (str, int, float, bool)) or not finite:
            raise InvalidError(f"option {name!r} is {value!r}; pass a text or a number, such as {{\"tasks\": 4}}")
    return dict(options)


def _option_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _timeout(timeout: Any) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
        raise InvalidError(f"`timeout` is {timeout!r}; pass seconds above 0, or None")
    # Beyond it, the system's timers overflow.
    return min(float(timeout), 1e6)


def _warn(message: str) -> None:
    """Warns at the first frame outside this package."""
    package = __name__.partition(".")[0]
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, BuzzWarning, stacklevel=level)


class Connection:
    """A connection, which several threads can use at once. `connect` makes it.

    It is closed by `close`, at the end of a `with` block, when it is collected, and at the end of Python.
    """

    def __init__(self, door: Door, server: Server | None, options: dict[str, Any]):
        self._door = door
        self._server = server
        self._options = options
        self._is_closed = False

    @property
    def url(self) -> str:
        """Address of the server."""
        return self._door.url

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._is_closed

    def sql(
        self,
        statement: str,
        params: Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        timeout: float | None = None,
        options: Options | None = None,
        **named: Any,
    ) -> Result:
        """Runs one statement and returns all its rows.

        `$x` in the statement takes the value of the argument `x`, or of `"x"` in `params`; a list has `$1`, `$2` and so on.
        Values are bound with their types; they are never a part of the SQL. `timeout` is in seconds, with the wait for other
        queries; `options` are options of this query only. Warnings of the query are `BuzzWarning`s.

        Ctrl-C cancels the query on the server.

        Raises the `Error` of the kind that Buzz reports; `LimitError` after the timeout; `UnavailableError` if the server does
        not answer; `CancelledError` if the connection is closed meanwhile.
        """
        if not isinstance(statement, str) or not statement.strip():
            raise InvalidError(f"the statement is {statement!r}; pass SQL such as \"SELECT 1\"")
        body = {
            "sql": statement,
            "params": parameters(params, named),
            "options": {**self._options, **_options("options", options)},
        }
        seconds = _timeout(timeout)
        if self._is_closed:
            raise InvalidError("the connection is closed; make another one with buzz.connect()")
        answer = self._door.query(body, seconds)
        for warning in answer.warnings:
            _warn(warning)
        return Result(answer.table, Summary.from_json(answer.summary), answer.warnings, answer.query_id)

    def close(self) -> None:
        """Cancels the running queries, and stops the server that this connection started. A second call does nothing."""
        self._is_closed = True
        self._door.close()
        if self._server is not None:
            self._server.stop()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self._is_closed else ""
        owner = "its own server" if self._server is not None else "a server"
        return f"<buzz.Connection to {owner} at {self.url}{state}>"
