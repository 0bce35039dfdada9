"""SQL over data lakes with Buzz.

    import buzz

    with buzz.connect(tables={"trips": "data/nyc-taxi-daily"}) as connection:
        trips = connection.sql("SELECT * FROM trips WHERE fare_amount > $fare", fare=50).to_pandas()

In a notebook, `%load_ext buzz` adds `%buzz_connect`, `%sql` and `%%sql`.
"""

from __future__ import annotations

from typing import Any

from .connection import Connection, connect
from .errors import (
    BuzzWarning,
    CancelledError,
    DataError,
    Error,
    InternalError,
    InvalidError,
    LimitError,
    UnavailableError,
)
from .result import Result, Summary

__all__ = [
    "BuzzWarning",
    "CancelledError",
    "Connection",
    "DataError",
    "Error",
    "InternalError",
    "InvalidError",
    "LimitError",
    "Result",
    "Summary",
    "UnavailableError",
    "connect",
]


def load_ipython_extension(ipython: Any) -> None:
    """Adds the magics to a notebook. `%load_ext buzz` calls it."""
    from .magic import register

    register(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """Closes the connection of the magics. `%unload_ext buzz` calls it."""
    from .magic import unregister

    unregister(ipython)
