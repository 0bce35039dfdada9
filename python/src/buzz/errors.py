"""Errors and warnings.

The kind of an error says what its reader can do. It is the kind that Buzz reports, and has a class of its own.
"""

from __future__ import annotations


class Error(Exception):
    """Base of all errors of this package. The text is Buzz's message."""

    #: Name of the kind in Buzz's own messages.
    kind = "Internal"


class InvalidError(Error):
    """Change the query, or the argument that the message names."""

    kind = "Invalid"


class DataError(Error):
    """Repair the table: its files or its log are missing, unreadable or inconsistent."""

    kind = "Data"


class UnavailableError(Error):
    """Try again: the server, a worker or a store did not respond."""

    kind = "Unavailable"


class LimitError(Error):
    """Raise the limit that the message names, or reduce the work of the query."""

    kind = "Limit"


class CancelledError(Error):
    """Nothing to do: the query was cancelled."""

    kind = "Cancelled"


class InternalError(Error):
    """Report it: a bug in Buzz."""

    kind = "Internal"


class BuzzWarning(UserWarning):
    """A warning of a query or of a table."""


_BY_KIND = {
    cls.kind: cls for cls in (InvalidError, DataError, UnavailableError, LimitError, CancelledError, InternalError)
}


def error_of_kind(kind: object, message: str) -> Error:
    """Returns the error of a kind that Buzz reports. A kind that this package does not know is a plain `Error`."""
    return _BY_KIND.get(kind, Error)(message) if isinstance(kind, str) else Error(message)
