"""Magics for notebooks: `%buzz_connect`, `%sql` and `%%sql`."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from ._parameters import placeholders
from .connection import Connection, connect
from .errors import InvalidError
from .result import Result

_CONNECT_HELP = """Connects this notebook.

%buzz_connect --table trips=data/nyc-taxi-daily     starts a server for the notebook
%buzz_connect --stack dev                           the same; the stack `dev` on AWS runs the queries
%buzz_connect --url http://127.0.0.1:8642           asks a server that already runs; its key is in $BUZZ_KEY
%buzz_connect connection                            takes a buzz.Connection of the notebook
"""


class Magics:
    """The magics of one notebook, and its connection."""

    def __init__(self, ipython: Any):
        self._ipython = ipython
        self._connection: Connection | None = None
        self._is_own = False

    def connect(self, line: str) -> Connection:
        """Connects this notebook. `%buzz_connect --help` lists the arguments."""
        arguments = _parser().parse_args(_words(line))
        if arguments.connection is None:
            new, is_own = _connected(arguments), True
        else:
            new, is_own = self._ipython.user_ns.get(arguments.connection), False
            if not isinstance(new, Connection):
                raise InvalidError(f"`{arguments.connection}` is not a buzz.Connection; make it with buzz.connect()")
        self.close()
        self._connection, self._is_own = new, is_own
        return new

    def sql(self, line: str, cell: str | None = None) -> Result | None:
        """Runs a statement: `%sql SELECT …`, or `%%sql` above it. `%%sql name` stores the result as `name`.

        `$x` in the statement takes the value of the notebook's variable `x`.
        """
        name = line.strip() if cell is not None else ""
        if name and not name.isidentifier():
            raise InvalidError(f"`{name}` after %%sql is not the name of a variable; write the statement below it")
        if self._connection is None:
            raise InvalidError("the notebook is not connected; run %buzz_connect first, %buzz_connect --help lists its arguments")
        statement = line if cell is None else cell
        variables = self._ipython.user_ns
        params = {param: variables[param] for param in placeholders(statement) if param in variables}
        result = self._connection.sql(statement, params)
        if not name:
            return result
        variables[name] = result
        return None

    def close(self) -> None:
        """Closes the connection if `%buzz_connect` made it."""
        if self._connection is not None and self._is_own:
            self._connection.close()
        self._connection = None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise InvalidError(f"%buzz_connect: {message}; %buzz_connect --help lists the arguments")

    def exit(self, status: int = 0, message: str | None = None) -> Any:
        raise InvalidError("nothing was connected: --help was given")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="%buzz_connect", description=_CONNECT_HELP, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("connection", nargs="?", help="variable with a buzz.Connection")
    parser.add_argument("--table", action="append", metavar="NAME=PLACE", help="a table; can be repeated")
    parser.add_argument("--tables", metavar="FILE", help="file of tables")
    parser.add_argument("--stack", metavar="NAME", help="the stack that runs the queries")
    parser.add_argument("--url", help="address of a server that already runs")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="an option of all queries; can be repeated")
    parser.add_argument("--program", metavar="PATH", help="the buzz command")
    return parser


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise InvalidError(f"%buzz_connect: {error}") from error


def _connected(arguments: argparse.Namespace) -> Connection:
    if arguments.table and arguments.tables:
        raise InvalidError("%buzz_connect: --table and --tables cannot be combined; add the table to the file")
    tables = _pairs("--table", arguments.table) if arguments.table else arguments.tables
    options = _pairs("--set", arguments.set) if arguments.set else None
    return connect(tables, stack=arguments.stack, url=arguments.url, options=options, program=arguments.program)


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals or not value:
            raise InvalidError(f"%buzz_connect: {option} {text} has no name and value; write {option} NAME=VALUE")
    return dict(text.split("=", 1) for text in texts)


def register(ipython: Any) -> None:
    """Adds the magics to `ipython`."""
    from IPython.core.magic import no_var_expand

    magics = Magics(ipython)
    ipython._buzz_magics = magics

    # IPython would put the values of `$x` into the SQL as text.
    @no_var_expand
    def sql(line: str, cell: str | None = None) -> Result | None:
        return magics.sql(line, cell)

    def buzz_connect(line: str) -> Connection:
        return magics.connect(line)

    sql.__doc__, buzz_connect.__doc__ = Magics.sql.__doc__, Magics.connect.__doc__
    ipython.register_magic_function(sql, "line_cell", "sql")
    ipython.register_magic_function(buzz_connect, "line", "buzz_connect")


def unregister(ipython: Any) -> None:
    """Closes the connection of the magics."""
    magics = getattr(ipython, "_buzz_magics", None)
    if magics is not None:
        magics.close()
