"""The rows of a statement."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .errors import InvalidError

if TYPE_CHECKING:
    import pandas
    import polars

#: Bounds of what `repr` and a notebook show.
_ROWS_SHOWN = 10
_COLUMNS_SHOWN = 20
_CHARACTERS_SHOWN = 60
_ITEMS_SHOWN = 10

_COUNTS = (
    "rows",
    "files_read",
    "files_found",
    "bytes_read",
    "tasks",
    "retries",
    "get_requests",
    "put_requests",
    "combs_started",
)


@dataclass(frozen=True)
class Summary:
    """The work done for a statement."""

    #: Rows of the result.
    rows: int
    #: Files that were read, and files of the tables.
    files_read: int
    files_found: int
    #: Bytes read from storage.
    bytes_read: int
    tasks: int
    retries: int
    #: Seconds without the wait for other queries.
    seconds: float
    #: US dollars by list price of the own work; None on this machine.
    cost_usd: float | None
    #: Requests to buckets: GET and HEAD; PUT, POST, COPY and LIST.
    get_requests: int = 0
    put_requests: int = 0
    #: Combs that were started, and US dollars by list price of their start and idle time; None on this machine.
    combs_started: int = 0
    started_usd: float | None = None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Summary:
        """Returns the summary that a server sends. A count that it does not send is 0."""
        counts = {name: int(values.get(name) or 0) for name in _COUNTS}
        return cls(
            seconds=float(values.get("seconds") or 0),
            cost_usd=values.get("cost_usd"),
            started_usd=values.get("started_usd"),
            **counts,
        )

    def __str__(self) -> str:
        cost = "n/a" if self.cost_usd is None else f"${self.cost_usd:.6f}"
        return (
            f"rows: {self.rows}, files: {self.files_read} of {self.files_found}, bytes: {_bytes(self.bytes_read)}, "
            f"tasks: {self.tasks}, retries: {self.retries}, time: {self.seconds:.2f} s, cost: {cost}"
        )


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


class Result:
    """All rows of a statement, as Arrow. Iterating over it returns record batches."""

    def __init__(self, table: pa.Table, summary: Summary, warnings: list[str], query_id: str):
        self._table = table
        #: The work done: rows, files, bytes, tasks, seconds, cost.
        self.summary = summary
        #: Warnings of the query.
        self.warnings = warnings
        #: Id of the query in the server's log.
        self.query_id = query_id

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._table.schema

    def to_arrow(self) -> pa.Table:
        """Returns a `pyarrow.Table`."""
        return self._table

    def to_pandas(self, **arguments: Any) -> pandas.DataFrame:
        """Returns a DataFrame of pandas. `arguments` are those of `pyarrow.Table.to_pandas`.

        Raises `InvalidError` if pandas is not installed, if two columns have one name, or if pandas cannot hold a value.
        """
        _require("pandas")
        self._require_names("a DataFrame")
        return _converted("pandas", lambda: self._table.to_pandas(**arguments))

    def to_polars(self) -> polars.DataFrame:
        """Returns a DataFrame of polars.

        Raises `InvalidError` if polars is not installed, if two columns have one name, or if polars has no form for a type.
        """
        polars = _require("polars")
        self._require_names("a DataFrame")
        return _converted("polars", lambda: polars.from_arrow(self._table))

    def to_pylist(self) -> list[dict[str, Any]]:
        """Returns a dict for each row.

        Raises `InvalidError` if two columns have one name, or if Python has no exact form for a value, such as a nanosecond.
        """
        self._require_names("a dict")
        return _converted("Python", self._table.to_pylist)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Returns the rows for other libraries of Arrow, such as `polars.DataFrame(result)`."""
        return self._table.__arrow_c_stream__(requested_schema)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return iter(self._table.to_batches())

    def __repr__(self) -> str:
        header, rows, notes = self._shown()
        cells = [header, *rows]
        widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
        line = "+" + "".join("-" * (width + 2) + "+" for width in widths)
        texts = ["|" + "".join(f" {cell:{width}} |" for cell, width in zip(row, widths)) for row in cells]
        table = [line, texts[0], line, *texts[1:], line] if header else []
        return "\n".join([*table, *notes, str(self.summary)])

    def _repr_html_(self) -> str:
        header, rows, notes = self._shown()
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        below = "<br>".join(html.escape(note) for note in [*notes, str(self.summary)])
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{below}</p>"

    def _shown(self) -> tuple[list[str], list[list[str]], list[str]]:
        """Returns the header, the first rows as texts, and notes on what is left out."""
        table = self._table
        part = table.slice(0, _ROWS_SHOWN).select(list(range(min(table.num_columns, _COLUMNS_SHOWN))))
        header = [_cell(name) for name in part.schema.names]
        columns = [[_cell(_text(value)) for value in column] for column in part.columns]
        rows = [list(row) for row in zip(*columns)]
        notes = []
        if part.num_rows < table.num_rows:
            notes.append(f"the first {part.num_rows} of {table.num_rows} rows")
        if part.num_columns < table.num_columns:
            notes.append(f"the first {part.num_columns} of {table.num_columns} columns")
        return header, rows, notes

    def _require_names(self, target: str) -> None:
        names: set[str] = set()
        for name in self._table.schema.names:
            if name in names:
                raise InvalidError(
                    f"two columns are called `{name}`, and {target} can have one of them; rename one in the SQL "
                    f"(`AS other_name`), or use to_arrow()"
                )
            names.add(name)


def _require(library: str) -> Any:
    """Imports a library that only one method needs."""
    import importlib

    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise InvalidError(f"to_{library}() requires {library}, which is not installed: pip install {library}") from error


def _converted(target: str, convert: Any) -> Any:
    try:
        return convert()
    except Exception as error:
        raise InvalidError(f"the rows cannot be converted to {target}: {error}; CAST the column, or use to_arrow()") from error


def _cell(text: str) -> str:
    """Returns a text that fits one cell: bounded, on one line, without control characters."""
    cut = text if len(text) <= _CHARACTERS_SHOWN else text[: _CHARACTERS_SHOWN - 1] + "…"
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in cut)


def _text(value: pa.Scalar) -> str:
    """Returns the text of a value. Of a long list, only the first items are converted."""
    if not value.is_valid:
        return "NULL"
    if isinstance(value, (pa.ListScalar, pa.LargeListScalar, pa.FixedSizeListScalar)) and not isinstance(value, pa.MapScalar):
        items = [_text(item) for item in value.values.slice(0, _ITEMS_SHOWN)]
        more = ["…"] if len(value.values) > _ITEMS_SHOWN else []
        return f"[{', '.join(items + more)}]"
    if isinstance(value, pa.StructScalar):
        names = [value.type.field(number).name for number in range(value.type.num_fields)]
        return "{" + ", ".join(f"{name}: {_text(value[number])}" for number, name in enumerate(names)) + "}"
    try:
        return str(value.as_py())
    except (ValueError, TypeError, OverflowError):
        # A time of a year beyond 9999 does not fit into Python, and `str(value)` would convert it too.
        return str(value.cast(pa.string()))
